/* SPDX-License-Identifier: MIT
 *
 * See resume.h. The kernel writes the image into swap space and puts S1SUSPEND in place of the signature in the swap's
 * first page, or the page of resume_offset= in a swap file (struct swsusp_header, kernel/power/swap.c, 6.1). It is
 * asked through /sys/power/resume only if that is there: what it would say otherwise would frighten people at every
 * boot.
 *
 * The kernel takes the signature away before it looks whether the session is one of its own (swsusp_check(), then
 * check_header() in snapshot.c). Where it finds another kernel's or another machine's, the signature is put back. A
 * session that is still there rules out the root: it holds what was open there, and would write it over what came
 * later.
 */
#include "resume.h"
#include "efi.h"
#include "files.h"
#include "find.h"
#include "log.h"
#include "mounting.h"
#include "retry.h"

#define LOCATION "HibernateLocation-8cf2644b-4b0b-428f-9387-6d876050dc67"

struct resuming {
	struct boot *boot;
	const char *wanted;
	char name[NAME_ROOM];
	char saver[80];	    /* the release of the kernel that saved it, if that is known */
	char mismatch[160]; /* the kernel's line about it */
};

static const char signature[] = "S1SUSPEND"; /* with its zero */

/* In JSON, UTF-16: {"uuid":"…","offset":N,"kernelVersion":"…",…} (write_efi_hibernate_location,
 * src/shared/hibernate-util.c, systemd 257). */
static const char *find_location(const struct boot *boot, u64 *offset, struct text *saver)
{
	static char wanted[UUID_ROOM + 8];
	struct text t = { wanted, sizeof(wanted), 0, false };
	char text[LABEL_ROOM];
	u8 data[1024];
	const char *at, *number;

	memset(data, 0, sizeof(data));
	if (read_efi_variable(boot, LOCATION, data, sizeof(data) - 2) <= 0)
		return NULL;
	put_wide_label(text, data, sizeof(data) / 2);
	text_reset(&t);
	for (at = text; *at; at++) {
		if (starts_with(at, "\"uuid\":\"") && length(at) > 8 + 36) {
			text_add(&t, "UUID=");
			text_add_bytes(&t, at + 8, 36);
		}
		number = at + 9;
		if (starts_with(at, "\"offset\":"))
			take_number(&number, offset);
		if (starts_with(at, "\"kernelVersion\":\""))
			for (number = at + 17; *number && *number != '"'; number++)
				text_add_bytes(saver, number, 1);
	}
	return t.used ? wanted : NULL;
}

static long find_swap(void *context)
{
	struct resuming *r = context;

	return find_device(r->boot, r->wanted, USE_RAW, r->name);
}

static void log_waiting(void *context)
{
	const struct resuming *r = context;

	log_info("waiting for resume=%s", r->wanted);
}

/* Where the signature is on the device; 0: nowhere. Pages have 4, 16 or 64 KiB, and it ends its page. */
static u64 find_image(const struct resuming *r, u64 offset)
{
	char data[sizeof(signature)];
	u64 size, at, found = 0;
	u32 shift;
	long fd = open_device(r->boot, r->name, &size);

	if (fd < 0)
		return 0;
	/* BLKFLSBUF: what the kernel has written past the page cache is to be seen */
	sys_ioctl((int)fd, 0x12ul << 8 | 97, 0);
	for (shift = 12; shift <= 16 && !found; shift += 2) {
		at = ((offset + 1) << shift) - sizeof(data);
		if (sys_pread((int)fd, data, sizeof(data), at) == sizeof(data) &&
		    !memcmp(data, signature, sizeof(data)))
			found = at;
	}
	sys_close((int)fd);
	return found;
}

/*
 * Reads the kernel's log to its end; the last line about a session that does not fit is kept ("Image mismatch: …",
 * check_header(); "… hardware signature mismatch …", swsusp_check()). -EPIPE: lines were lost; -EINVAL: one is too
 * long.
 */
static void read_log(struct resuming *r, int log)
{
	static char record[2048];
	struct text t = { r->mismatch, sizeof(r->mismatch), 0, false };
	const char *at, *text;
	long got;
	u32 lines; /* nobody writes as many meanwhile */

	text_reset(&t);
	for (lines = 0; lines < 1 << 20; lines++) {
		got = sys_read(log, record, sizeof(record) - 1);
		if (got == -EPIPE || got == -EINVAL)
			continue;
		if (got <= 0)
			break;
		record[got] = 0;
		text = find_char(record, ';');
		for (at = text; at && *at && *at != '\n'; at++)
			if (starts_with(at, "mage mismatch") || starts_with(at, "ignature mismatch")) {
				text_reset(&t);
				for (text++; *text && *text != '\n'; text++)
					text_add_bytes(&t, text, 1);
				break;
			}
	}
}

static bool put_signature_back(const struct resuming *r, u64 at)
{
	char path[NAME_ROOM];
	long fd, wrote;

	if (!set_name(r->name, path, sizeof(path)))
		return false;
	fd = sys_openat(r->boot->dev, path, O_WRONLY | O_SYNC, 0);
	if (fd < 0)
		return false;
	wrote = sys_pwrite((int)fd, signature, sizeof(signature), at);
	sys_close((int)fd);
	return wrote == sizeof(signature);
}

static long write_value(const struct boot *boot, const char *path, const char *value)
{
	long fd = sys_openat(boot->sys, path, O_WRONLY, 0), err;

	if (fd < 0)
		return fd;
	err = write_all((int)fd, value, length(value));
	sys_close((int)fd);
	return err;
}

/* The session stays as it is, and so must the root. */
static bool keep_session(const struct resuming *r, const char *why)
{
	log_error("the session on /dev/%s was not resumed: %s; it is kept, so the root is not touched: boot what saved "
		  "it, or add noresume to the kernel command line, which gives the session up",
		  r->name, why);
	return false;
}

/* Returns if the kernel did not resume; true if nothing is left of the session. */
static bool hand_image(struct resuming *r, u64 offset, u64 at)
{
	TEXT(path, 96);
	TEXT(number, 24);
	char device[24];
	long err, log = sys_openat(r->boot->dev, "kmsg", O_RDONLY | O_NONBLOCK, 0);

	if (log >= 0)
		read_log(r, (int)log);
	text_format(&path, "class/block/%s/dev", r->name);
	err = read_small(r->boot->sys, path.data, device, sizeof(device));
	log_info("resuming from /dev/%s", r->name);
	text_format(&number, "%llu", (unsigned long long)offset);
	if (err >= 0 && offset) /* kernels before 4.17 take it from their command line only */
		err = write_value(r->boot, "power/resume_offset", number.data);
	if (err >= 0 || err == -ENOENT)
		err = write_value(r->boot, "power/resume", device);
	r->mismatch[0] = 0;
	if (log >= 0) {
		read_log(r, (int)log);
		sys_close((int)log);
	}
	if (find_image(r, offset))
		return keep_session(r, err == -ENOENT  ? "this kernel cannot hibernate"
				       : err == -EPERM ? "EPERM (nohibernate, or lockdown)"
				       : err < 0       ? errno_name(err)
						       : "the kernel has said why, above");
	if (r->mismatch[0] && put_signature_back(r, at))
		return keep_session(r, r->mismatch);
	log_error("the session on /dev/%s was not resumed: the kernel has said why, above; it is lost", r->name);
	return true;
}

/* False if systemd's variable names another release. Where no release is named, the kernel decides by itself. */
static bool is_of_this_kernel(const struct resuming *r)
{
	char release[80];
	long size = read_small(r->boot->proc, "sys/kernel/osrelease", release, sizeof(release));

	if (!r->saver[0] || size <= 0)
		return true;
	release[size - 1] = 0;
	return streq(release, r->saver);
}

bool resume_session(struct boot *boot, u64 seconds)
{
	static struct resuming r;
	struct text saver = { r.saver, sizeof(r.saver), 0, false };
	const struct options *o = &boot->options;
	u64 offset = o->resume_offset, until = monotonic_ns() + seconds * 1000000000ull, at;
	const char *refusal;
	TEXT(why, 160);
	long err;

	r.boot = boot;
	r.wanted = o->resume;
	text_reset(&saver);
	if (o->no_resume)
		return true;
	if (!o->resume[0])
		r.wanted = find_location(boot, &offset, &saver);
	if (!r.wanted)
		return true;
	refusal = refusal_of(boot, r.wanted, false);
	if (refusal) {
		log_warning("resume=%s: %s; a session that was saved there is not resumed", r.wanted, refusal);
		return true;
	}
	err = retry(find_swap, log_waiting, &r, &until);
	if (err < 0)
		log_warning("resume=%s: %s; continuing without it", r.wanted,
			    err == -EINVAL   ? "not a form of a device's name"
			    : err == -ENODEV ? "it did not appear"
					     : "more than one");
	at = err < 0 ? 0 : find_image(&r, offset);
	if (!at)
		return true;
	if (is_of_this_kernel(&r))
		return hand_image(&r, offset, at);
	text_format(&why, "Linux %s has saved it, and this is another one", r.saver);
	return keep_session(&r, why.data);
}
