/* SPDX-License-Identifier: MIT
 *
 * See resume.h. The kernel writes the image into swap space and puts S1SUSPEND in place of the signature in the swap's
 * first page, or the page of resume_offset= in a swap file (struct swsusp_header, kernel/power/swap.c, 6.1). It is
 * asked through /sys/power/resume only if that is there: what it would say otherwise would frighten people at every
 * boot.
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
};

/* In JSON, UTF-16: {"uuid":"…","offset":N,…} (write_efi_hibernate_location, src/shared/hibernate-util.c, systemd 257).
 */
static const char *find_location(const struct boot *boot, u64 *offset)
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

/* Pages have 4, 16 or 64 KiB; the signature ends the page. */
static bool has_image(const struct resuming *r, u64 offset)
{
	char signature[10];
	u64 size;
	u32 shift;
	bool found = false;
	long fd = open_device(r->boot, r->name, &size);

	if (fd < 0)
		return false;
	for (shift = 12; shift <= 16; shift += 2)
		if (sys_pread((int)fd, signature, 10, ((offset + 1) << shift) - 10) == 10)
			found |= !memcmp(signature, "S1SUSPEND", 9);
	sys_close((int)fd);
	return found;
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

/* Returns if the kernel did not resume. */
static void hand_image(const struct resuming *r, u64 offset)
{
	TEXT(path, 96);
	TEXT(number, 24);
	char device[24];
	long err;

	text_format(&path, "class/block/%s/dev", r->name);
	err = read_small(r->boot->sys, path.data, device, sizeof(device));
	log_info("resuming from /dev/%s", r->name);
	text_format(&number, "%llu", (unsigned long long)offset);
	if (err >= 0 && offset) /* kernels before 4.17 take it from their command line only */
		err = write_value(r->boot, "power/resume_offset", number.data);
	if (err >= 0 || err == -ENOENT)
		err = write_value(r->boot, "power/resume", device);
	log_error("the session on /dev/%s was not resumed: %s; it is lost when the root is used", r->name,
		  err == -ENOENT  ? "this kernel cannot hibernate"
		  : err == -EPERM ? "EPERM (nohibernate, or lockdown)"
		  : err < 0	  ? errno_name(err)
				  : "the kernel has said why, above");
}

void resume_session(struct boot *boot, u64 seconds)
{
	static struct resuming r;
	const struct options *o = &boot->options;
	u64 offset = o->resume_offset, until = monotonic_ns() + seconds * 1000000000ull;
	const char *refusal;
	long err;

	r.boot = boot;
	r.wanted = o->resume;
	if (o->no_resume)
		return;
	if (!o->resume[0])
		r.wanted = find_location(boot, &offset);
	if (!r.wanted)
		return;
	refusal = refusal_of(boot, r.wanted, false);
	if (refusal) {
		log_warning("resume=%s: %s; a session that was saved there is not resumed", r.wanted, refusal);
		return;
	}
	err = retry(find_swap, log_waiting, &r, &until);
	if (err < 0)
		log_warning("resume=%s: %s; continuing without it", r.wanted,
			    err == -EINVAL   ? "not a form of a device's name"
			    : err == -ENODEV ? "it did not appear"
					     : "more than one");
	else if (has_image(&r, offset))
		hand_image(&r, offset);
}
