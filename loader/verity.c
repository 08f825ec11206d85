/* SPDX-License-Identifier: MIT
 *
 * dm-verity: the root is read through a device that checks every block against a tree of hashes whose topmost hash the
 * plan holds, so that nobody can change it unnoticed. The plan's record has what `veritysetup format` prints:
 *
 *   verity HASH-DEVICE ALGORITHM DATA-BLOCK-SIZE HASH-BLOCK-SIZE DATA-BLOCKS HASH-START ROOT-HASH SALT [OPTION…]
 *
 * HASH-DEVICE is written as root= is, or `-` for the same device; HASH-START counts hash blocks; SALT is `-` if there
 * is none. They become the one line of the device's table (Documentation/admin-guide/device-mapper/verity.rst).
 */
#include "verity.h"
#include "find.h"
#include "log.h"

enum { TABLE_ROOM = 1024 };

/* include/uapi/linux/dm-ioctl.h */
enum { DM_DEV_CREATE = 3, DM_DEV_REMOVE = 4, DM_DEV_SUSPEND = 6, DM_TABLE_LOAD = 9, DM_READONLY_FLAG = 1 };

/* include/uapi/linux/dm-ioctl.h: struct dm_ioctl, and behind it one struct dm_target_spec with its text. */
struct request {
	u32 version[3];
	u32 data_size, data_start, target_count;
	s32 open_count;
	u32 flags, event_nr, padding;
	u64 dev;
	char name[128], uuid[129], data[7];

	struct {
		u64 start, length;
		s32 status;
		u32 next;
		char type[16];
		char text[TABLE_ROOM];
	} target;
};

_Static_assert(offsetof(struct request, target) == 312, "struct dm_ioctl has 312 bytes");

static long ask(int control, struct request *r, u32 what, u32 flags)
{
	r->version[0] = 4;
	r->data_size = sizeof(*r);
	r->data_start = offsetof(struct request, target);
	r->flags = flags;
	/* _IOWR(0xfd, what, struct dm_ioctl), the same on all four architectures */
	return sys_ioctl(control, 3ul << 30 | 312ul << 16 | 0xfdul << 8 | what, (long)(uintptr_t)r);
}

/* The table's line; the fields come in the record's order. */
static bool write_table(struct request *r, const char *data, const char *hash, struct fields f)
{
	struct text t = { r->target.text, sizeof(r->target.text), 0, false };
	const char *field[VERITY_FIELDS];
	const char *at;
	u64 size = 0, blocks = 0;
	u32 i;

	for (i = 0; i < VERITY_FIELDS; i++, f.count--, f.first = f.count ? next_field(f.first) : f.first)
		field[i] = f.first;
	text_format(&t, "1 /dev/%s /dev/%s %s %s %s %s %s %s %s", data, hash, field[2], field[3], field[4], field[5],
		    field[1], field[6], field[7]);
	if (f.count)
		text_format(&t, " %u", f.count);
	for (; f.count; f.count--, f.first = next_field(f.first))
		text_format(&t, " %s", f.first);
	at = field[2];
	take_number(&at, &size); /* both were checked when the plan was read */
	at = field[4];
	take_number(&at, &blocks);
	r->target.length = blocks * (size >> 9);
	return !t.cut;
}

static long make_device(const struct boot *boot, struct request *r)
{
	struct text name = { r->name, sizeof(r->name), 0, false };
	struct text type = { r->target.type, sizeof(r->target.type), 0, false };
	long control = sys_openat(boot->dev, "mapper/control", O_RDWR, 0), err;

	if (control < 0)
		return control;
	text_add(&name, "root");
	text_add(&type, "verity");
	ask((int)control, r, DM_DEV_REMOVE, 0); /* of an attempt before this one */
	err = ask((int)control, r, DM_DEV_CREATE, DM_READONLY_FLAG);
	r->dev = 0; /* by its name from now on */
	r->target_count = 1;
	if (err >= 0)
		err = ask((int)control, r, DM_TABLE_LOAD, DM_READONLY_FLAG);
	r->target_count = 0;
	r->dev = 0;
	if (err >= 0)
		err = ask((int)control, r, DM_DEV_SUSPEND, DM_READONLY_FLAG); /* without DM_SUSPEND_FLAG: resume */
	sys_close((int)control);
	return err;
}

long open_verity(const struct boot *boot, char *data, size_t room)
{
	static struct request r;
	struct fields f = boot->plan.verity;
	struct text name = { data, room, 0, false };
	char hash[NAME_ROOM];
	long err = 0;

	memset(&r, 0, sizeof(r));
	if (!streq(f.first, "-"))
		err = find_device(boot, f.first, USE_RAW, hash);
	if (err == -ENODEV)
		return err;
	if (err >= 0)
		err = write_table(&r, data, streq(f.first, "-") ? data : hash, f) ? make_device(boot, &r) : -E2BIG;
	if (err < 0) {
		log_error("no dm-verity device over /dev/%s with the hashes of %s: %s (%s)", data, f.first,
			  errno_name(err),
			  err == -ENOENT ? "is dm_mod in the critical stage?" : "the kernel may have said why, above");
		return err == -ENODEV ? -EIO : err;
	}
	text_reset(&name);
	/* huge_encode_dev(): the minor's low byte and, from bit 20, the rest (linux/kdev_t.h) */
	text_format(&name, "dm-%u", (u32)((r.dev & 0xff) | (r.dev >> 12 & 0xfff00)));
	return 0;
}
