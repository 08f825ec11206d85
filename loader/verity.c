/* SPDX-License-Identifier: MIT
 *
 * dm-verity: the root is read through a device that checks every block against a tree of hashes whose topmost hash the
 * plan holds, so that nobody can change it unnoticed. The plan's record has what `veritysetup format` prints:
 *
 *   verity HASH-DEVICE ALGORITHM DATA-BLOCK-SIZE HASH-BLOCK-SIZE DATA-BLOCKS HASH-START ROOT-HASH SALT [OPTION…]
 *
 * HASH-DEVICE is written as root= is, or `-` for the same device; HASH-START counts hash blocks; SALT is `-` if there
 * is none. With `-` for ROOT-HASH the hash is that of roothash= on the command line; with 0 DATA-BLOCKS all else is
 * read from veritysetup's superblock on the hash device, which may then be `roothash`: the partition whose UUID is the
 * second half of the hash, as the first half is that of the root (systemd-veritysetup-generator(8)). The fields become
 * the one line of the device's table (Documentation/admin-guide/device-mapper/verity.rst). If the options begin with
 * `root_hash_sig_key_desc FILE`, FILE of the image is the signature of the root hash.
 */
#include "verity.h"
#include "find.h"
#include "log.h"
#include "root_hash_signature.h"
#include "slot.h"

#define SIGNATURE_OPTION "root_hash_sig_key_desc"

enum { TABLE_ROOM = 1024 };

enum field { HASH_DEVICE, ALGORITHM, DATA_SIZE, HASH_SIZE, DATA_BLOCKS, HASH_START, ROOT_HASH, SALT };

/* A record's fields, with what comes from elsewhere put in. */
struct table {
	const char *field[VERITY_FIELDS];
	struct fields options;
	const char *signature; /* a file of the image, or "" */
	bool is_signed;
	char format[4], algorithm[33], data_size[12], hash_size[12], blocks[24], salt[513];
};

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

static void put_number(char *to, size_t room, u64 n)
{
	struct text t = { to, room, 0, false };

	text_reset(&t);
	text_format(&t, "%llu", (unsigned long long)n);
}

/* The table's fields from veritysetup's superblock (lib/verity/verity.c, struct verity_sb, cryptsetup 2.7). */
static bool read_verity_superblock(const struct boot *boot, const char *name, struct table *t)
{
	static u8 b[512];
	u64 size;
	long fd = open_device(boot, name, &size), got;

	if (fd < 0)
		return false;
	got = sys_pread((int)fd, b, sizeof(b), 0);
	sys_close((int)fd);
	if (got != sizeof(b) || memcmp(b, "verity\0\0\1\0\0\0", 12) || le16(b + 80) > 256)
		return false;
	put_number(t->format, sizeof(t->format), b[12]);
	memcpy(t->algorithm, b + 32, 32);
	put_number(t->data_size, sizeof(t->data_size), le32(b + 64));
	put_number(t->hash_size, sizeof(t->hash_size), le32(b + 68));
	put_number(t->blocks, sizeof(t->blocks), le64(b + 72));
	put_hex(t->salt, b + 88, le16(b + 80));
	t->field[ALGORITHM] = t->algorithm;
	t->field[DATA_SIZE] = t->data_size;
	t->field[HASH_SIZE] = t->hash_size;
	t->field[DATA_BLOCKS] = t->blocks;
	t->field[HASH_START] = "1";
	t->field[SALT] = t->salt[0] ? t->salt : "-";
	return true;
}

static void cut_fields(const struct boot *boot, struct table *t)
{
	struct fields f = boot->plan.verity;
	u32 i;

	for (i = 0; i < VERITY_FIELDS; i++)
		t->field[i] = field_at(f, i);
	if (!t->field[ROOT_HASH][0])
		t->field[ROOT_HASH] = boot->options.root_hash;
	if (!t->field[SALT][0])
		t->field[SALT] = "-";
	t->format[0] = '1';
	for (t->options = f; i && t->options.count; i--, t->options.count--)
		t->options.first = next_field(t->options.first);
	t->signature = "";
	if (t->options.count < 2 || !streq(t->options.first, SIGNATURE_OPTION))
		return;
	t->signature = next_field(t->options.first);
	t->options.count -= 2;
	if (t->options.count)
		t->options.first = next_field(t->signature);
}

/* `PARTUUID=` of one half of the root hash. */
static void put_half(const struct boot *boot, char *to, size_t room, bool second)
{
	static const u8 parts[] = { 8, 4, 4, 4, 12 };
	const char *hash = boot->options.root_hash;
	struct text t = { to, room, 0, false };
	u32 i;

	hash += second ? length(hash) - 32 : 0;
	text_reset(&t);
	text_add(&t, "PARTUUID=");
	for (i = 0; i < sizeof(parts); hash += parts[i++]) {
		text_add(&t, i ? "-" : "");
		text_add_bytes(&t, hash, parts[i]);
	}
}

bool check_root_hash(const struct boot *boot)
{
	const struct options *o = &boot->options;
	const char *known = field_at(boot->plan.verity, ROOT_HASH);
	bool given = o->root_hash[0];

	if (!boot->plan.verity.count) {
		if (!given && !o->has_usr_hash)
			return true;
		log_error(
			"roothash= is on the kernel command line, but the image has no verity in its plan: nothing would "
			"check the root; build it with verity, or remove the word");
	} else if (!known[0]) {
		if (length(o->root_hash) >= 32)
			return true;
		log_error("no roothash= on the kernel command line, and the image has none");
	} else {
		if (!given || streq_nocase(known, o->root_hash))
			return true;
		log_error("roothash= on the kernel command line is not the hash that the image has");
	}
	return false;
}

bool put_hashed_root(const struct boot *boot, char *to, size_t room)
{
	if (!boot->plan.verity.count || !streq(boot->plan.verity.first, "roothash"))
		return false;
	put_half(boot, to, room, false);
	return true;
}

/* The table's line; the fields come in the record's order. */
static bool write_table(struct request *r, const char *data, const char *hash, const struct table *v)
{
	struct text t = { r->target.text, sizeof(r->target.text), 0, false };
	struct fields f = v->options;
	const char *const *field = v->field, *at;
	u64 size = 0, blocks = 0;

	text_format(&t, "%s /dev/%s /dev/%s %s %s %s %s %s %s %s", v->format, data, hash, field[DATA_SIZE],
		    field[HASH_SIZE], field[DATA_BLOCKS], field[HASH_START], field[ALGORITHM], field[ROOT_HASH],
		    field[SALT]);
	if (f.count || v->is_signed)
		text_format(&t, " %u", f.count + 2 * v->is_signed);
	if (v->is_signed)
		text_format(&t, " %s %s", SIGNATURE_OPTION, SIGNATURE_KEY);
	for (; f.count; f.count--, f.first = next_field(f.first))
		text_format(&t, " %s", f.first);
	at = field[DATA_SIZE];
	take_number(&at, &size); /* both were checked when the plan was read */
	at = field[DATA_BLOCKS];
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

/* The device with the hash tree; a negative errno. */
static long find_hashes(const struct boot *boot, const char *data, const struct table *t, char *hash)
{
	char wanted[LABEL_ROOM];

	copy_name(hash, data);
	if (!t->field[HASH_DEVICE][0])
		return 0;
	if (streq(t->field[HASH_DEVICE], "roothash"))
		put_half(boot, wanted, sizeof(wanted), true);
	else if (!put_slot(boot, t->field[HASH_DEVICE], wanted, sizeof(wanted)))
		return -EINVAL;
	return find_device(boot, wanted, USE_RAW, hash);
}

long open_verity(const struct boot *boot, char *data, size_t room)
{
	static struct request r;
	static struct table t;
	struct text name = { data, room, 0, false };
	char hash[NAME_ROOM];
	long err;

	memset(&r, 0, sizeof(r));
	cut_fields(boot, &t);
	err = find_hashes(boot, data, &t, hash);
	if (err == -ENODEV)
		return err;
	if (err >= 0 && streq(t.field[DATA_BLOCKS], "0") && !read_verity_superblock(boot, hash, &t)) {
		log_error("/dev/%s has no superblock of veritysetup", hash);
		return -EIO;
	}
	if (err >= 0) {
		err = add_root_hash_signature(boot, t.signature);
		if (err < 0)
			return -EIO;
		t.is_signed = err;
		err = write_table(&r, data, hash, &t) ? make_device(boot, &r) : -E2BIG;
	}
	if (err < 0) {
		log_error("no dm-verity device over /dev/%s with the hashes of %s: %s (%s)", data, t.field[HASH_DEVICE],
			  errno_name(err),
			  err == -ENOENT	 ? "is dm_mod in the critical stage?"
			  : err == -ENOKEY	 ? "its root hash has no signature by a key that the kernel trusts"
			  : err == -EKEYREJECTED ? "the signature of its root hash is wrong"
						 : "the kernel may have said why, above");
		return err == -ENODEV ? -EIO : err;
	}
	text_reset(&name);
	/* huge_encode_dev(): the minor's low byte and, from bit 20, the rest (linux/kdev_t.h) */
	text_format(&name, "dm-%u", (u32)((r.dev & 0xff) | (r.dev >> 12 & 0xfff00)));
	return 0;
}
