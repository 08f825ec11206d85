/* SPDX-License-Identifier: MIT
 *
 * See mounting.h.
 */
#include "mounting.h"
#include "discover.h"
#include "files.h"
#include "find.h"
#include "limits.h"
#include "log.h"
#include "mount_options.h"
#include "times.h"
#include "retry.h"
#include "root_stage.h"
#include "verity.h"

#define SECOND 1000000000ull

enum { SHORT_SECONDS = 5 }; /* for what the command line wants to be made by programs that are not here */

/* One attempt with one type; a read-only medium gets a second one, as the kernel does it. */
static long mount_as(struct mounting *m, const char *type)
{
	const char *data = m->data[0] ? m->data : NULL;
	long err = sys_mount(m->source, m->target, type, m->flags, data);

	if ((err == -EACCES || err == -EROFS) && !(m->flags & MS_RDONLY))
		err = sys_mount(m->source, m->target, type, m->flags | MS_RDONLY, data);
	if (err < 0) {
		log_debug("%s is not mounted as %s: %s", m->source, type, errno_name(err));
		m->error = err;
		m->coming |= err == -ENODEV && ask_for_driver(m->boot, type);
		return err;
	}
	log_info("%s %s %s mounted", m->what, m->source, type);
	log_cpu_time(m->boot);
	return 0;
}

/* Attempts each type of a comma-separated list. */
static long mount_as_any(struct mounting *m, const char *types)
{
	char type[64];
	struct text t = { type, sizeof(type), 0, false };
	const char *end;
	long err = -EINVAL;

	for (; *types; types = *end ? end + 1 : end) {
		for (end = types; *end && *end != ','; end++)
			;
		text_reset(&t);
		text_add_bytes(&t, types, (size_t)(end - types));
		err = mount_as(m, type);
		if (err >= 0)
			break;
	}
	return err;
}

static char file_systems[4096]; /* /proc/filesystems */

/* An unknown superblock: every type that the kernel has and that needs a device, in its order (list_bdev_fs_names). */
static long mount_as_known(struct mounting *m)
{
	char *line = file_systems, *end;
	long err = read_small(m->boot->proc, "filesystems", file_systems, sizeof(file_systems));

	if (err < 0)
		return err;
	err = -EINVAL;
	for (; *line && err < 0; line = end + 1) {
		for (end = line; *end && *end != '\n'; end++)
			;
		if (!*end)
			break;
		*end = 0;
		if (line[0] == '\t') /* the others read `nodev\tNAME` */
			err = mount_as(m, line + 1);
	}
	return err;
}

/* Does the first type of the list take a source that is not a block device: a tag, a volume, another machine's folder?
 */
static bool takes_any_source(const struct mounting *m)
{
	TEXT(line, 80);
	const char *types = m->types, *end, *at;

	for (end = types; *end && *end != ','; end++)
		;
	text_add(&line, "nodev\t");
	text_add_bytes(&line, types, (size_t)(end - types));
	text_add(&line, "\n");
	if (end == types || read_small(m->boot->proc, "filesystems", file_systems, sizeof(file_systems)) < 0)
		return false;
	for (at = file_systems; *at; at++)
		if ((at == file_systems || at[-1] == '\n') && starts_with(at, line.data))
			return true;
	/* Drivers that come in a later stage. */
	return streq(line.data, "nodev\t9p\n") || streq(line.data, "nodev\tvirtiofs\n");
}

static void set_source(struct mounting *m, const char *prefix, const char *name)
{
	struct text source = { m->source, sizeof(m->source), 0, false };

	text_reset(&source);
	text_format(&source, "%s%s", prefix, name);
}

/* The kernel looks no names up: it wants the server's address among the options, as mount.nfs(8) gives it. */
static void add_address(struct mounting *m)
{
	struct text data = { m->data, sizeof(m->data), length(m->data), false };
	bool bracket = m->wanted[0] == '[';
	const char *from = m->wanted + bracket, *end = find_char(from, bracket ? ']' : ':');

	if (!starts_with(m->types, "nfs") || !end || find_option(m->data, "addr="))
		return;
	text_add(&data, data.used ? ",addr=" : "addr=");
	text_add_bytes(&data, from, (size_t)(end - from));
	look_every_second(); /* a link that comes up sends no event */
}

/* QEMU's manual calls the tag of a 9p root /dev/root; the kernel takes the `/dev/` off (mount_nodev_root). */
static long mount_tag(struct mounting *m)
{
	set_source(m, "", m->wanted);
	add_address(m);
	if (mount_as_any(m, m->types) >= 0)
		return 0;
	if (!starts_with(m->wanted, "/dev/"))
		return -ENODEV;
	set_source(m, "", m->wanted + 5);
	return mount_as_any(m, m->types) < 0 ? -ENODEV : 0;
}

static long refuse(struct mounting *m)
{
	m->logged = true;
	return -EPERM;
}

/* What is on the device rules out that it is the root; has said so then. */
static bool is_refused(struct mounting *m, const struct superblock *s)
{
	if (s->member)
		log_error("%s %s: %s %s (%s), which the loader does not open: " WAY_OUT, m->what, m->wanted, m->source,
			  content_words(s->membership), s->member);
	else if (s->second && !m->types[0])
		log_error("%s %s: %s holds %s and %s: name the right one in rootfstype=, or remove the other's "
			  "signature (wipefs)",
			  m->what, m->wanted, m->source, s->name, s->second);
	else if (s->content == CONTENT_OTHER && !m->types[0])
		log_error("%s %s: %s holds %s, not a file system", m->what, m->wanted, m->source, s->name);
	else
		return false;
	refuse(m);
	return true;
}

/* BTRFS_IOC_DEVICES_READY: the kernel learns of a device, and says whether it knows all of its file system. */
static bool tell_btrfs(const struct boot *boot, const char *name)
{
	static struct {
		s64 fd;
		char name[4088];
	} arguments; /* struct btrfs_ioctl_vol_args, include/uapi/linux/btrfs.h */
	struct text path = { arguments.name, sizeof(arguments.name), 0, false };
	long fd = sys_openat(boot->dev, "btrfs-control", O_RDWR, 0), err;

	if (fd < 0)
		return true; /* no driver: mount() will say it */
	text_add(&path, "/dev/");
	set_name(name, arguments.name + 5, sizeof(arguments.name) - 5);
	err = sys_ioctl((int)fd, 2ul << 30 | 4096ul << 16 | 0x94ul << 8 | 39, (long)(uintptr_t)&arguments);
	sys_close((int)fd);
	return err == 0;
}

/* Gathers the devices of one file system. -ENODEV: some are not there yet, and nobody has asked for less. */
static long gather_devices(struct mounting *m, const struct superblock *s)
{
	const struct matches *all = find_siblings(m->boot, s);
	struct text source = { m->source, sizeof(m->source), 0, false };
	bool ready = all->count >= s->devices;
	u32 i;

	if (streq(s->name, "btrfs")) {
		ready = false;
		for (i = 0; i < all->count; i++)
			ready |= tell_btrfs(m->boot, all->list[i].name);
	} else { /* bcachefs: all names, separated by colons */
		text_reset(&source);
		for (i = 0; i < all->count; i++)
			text_format(&source, "%s/dev/%s", i ? ":" : "", all->list[i].name);
	}
	m->here = ready ? 0 : all->count;
	m->devices = s->devices;
	if (ready || (m->last && has_option(m->data, "degraded")))
		return 0;
	return -ENODEV;
}

static const char *types_of(const struct superblock *s)
{
	if (starts_with(s->name, "ext"))
		return "ext4,ext3,ext2"; /* ext4's driver takes all three where it is the only one */
	if (streq(s->name, "ntfs"))
		return "ntfs3,ntfs";
	return s->name;
}

static long mount_device(struct mounting *m, const char *name)
{
	struct superblock s;
	long err;

	set_source(m, "/dev/", "");
	set_name(name, m->source + 5, sizeof(m->source) - 5);
	err = identify_device(m->boot, name, &s);
	if (err < 0)
		return m->error = err;
	if (is_refused(m, &s))
		return -EPERM;
	if (s.devices > 1) {
		err = gather_devices(m, &s);
		if (err < 0)
			return err;
	}
	if (m->types[0])
		return mount_as_any(m, m->types);
	return s.name ? mount_as_any(m, types_of(&s)) : mount_as_known(m);
}

static long attempt_mount(void *context)
{
	struct mounting *m = context;
	bool verity = m->boot->plan.verity.count && !m->usr;
	char name[NAME_ROOM];
	long err;

	if (!verity && takes_any_source(m))
		return mount_tag(m);
	err = m->discover ? discover_root(m->boot, name)
			  : find_device(m->boot, m->wanted, verity ? USE_RAW : USE_MOUNT, name);
	if (err == -EINVAL && m->types[0] && !verity) /* ubi0:name, host:/path of a driver to come */
		return mount_tag(m);
	if (err == -EPERM)
		return refuse(m);
	if (err >= 0 && verity) {
		err = open_verity(m->boot, name, sizeof(name));
		if (err < 0 && err != -ENODEV)
			return refuse(m);
	}
	if (err >= 0) {
		err = mount_device(m, name);
		if (err == -ENXIO || err == -ENOMEDIUM) /* the node is there, what it stands for is not */
			err = -ENODEV;
		else if (err == -ENODEV && !m->here && !m->coming)
			err = -EOPNOTSUPP; /* mount()'s word for an unknown type */
	}
	return err;
}

static u64 until; /* monotonic ns, 0: for ever */

/* The first look found nothing: what may be in the way is said at once. */
static void log_waiting(void *context)
{
	const struct mounting *m = context;
	const char *limit;
	TEXT(names, 512);

	text_reset(&names);
	log_info("waiting for %s %s", m->what, m->wanted);
	limit = m->here ? NULL : limit_on_command_line(m->boot, &names);
	if (limit) {
		log_error("%s: %s; " WAY_OUT, names.data, limit);
		text_reset(&names);
		if (!until || until > monotonic_ns() + SHORT_SECONDS * SECOND)
			until = monotonic_ns() + SHORT_SECONDS * SECOND;
	}
	if (m->here)
		log_info("%s: %u of its %u devices are there", m->source, m->here, m->devices);
	else if (list_members(m->boot, &names))
		log_warning("the loader opens none of these: %s; if the %s is in there, " WAY_OUT, names.data, m->what);
	/* What is asked to make do with fewer devices does not wait for ever for the others. */
	if (!until && m->here && has_option(m->data, "degraded"))
		until = monotonic_ns() + WAIT_SECONDS * SECOND;
}

static bool log_why(struct mounting *m, long err, u64 seconds)
{
	TEXT(why, 192);
	TEXT(names, 640);

	if (m->logged)
		return false;
	text_reset(&names);
	list_contents(m->boot, &names);
	if (err == -EINVAL && !m->error)
		text_format(&why, "neither /dev/NAME, UUID=, LABEL=, PARTUUID=, PARTLABEL= nor MAJ:MIN");
	else if (err == -ENODEV && m->here)
		text_format(
			&why,
			"%s: %u of its %u devices did not appear within %llu s (the option degraded mounts it without)",
			m->source, m->devices - m->here, m->devices, (unsigned long long)seconds);
	else if (err == -ENODEV && m->discover)
		text_format(&why, "no partition of the type for roots appeared within %llu s%s",
			    (unsigned long long)seconds,
			    m->boot->options.root[0] ? "" : ", and no root= is on the kernel command line");
	else if (err == -ENODEV && !m->error)
		text_format(&why, "it did not appear within %llu s", (unsigned long long)seconds);
	else
		text_format(&why, "%s cannot be mounted: %s (%s)", m->source, errno_name(m->error),
			    m->error == -ENODEV ? "no driver for its file system"
						: "the kernel may have said why, above");
	log_error("%s %s: %s; block devices:%s", m->what, m->wanted, why.data, names.used ? names.data : " none");
	return false;
}

bool mount_when_there(struct mounting *m, const char *options, u64 seconds)
{
	struct text data = { m->data, sizeof(m->data), 0, false };
	const char *refusal;
	long err;

	m->flags = MS_SILENT | (m->boot->options.writable || m->writable ? 0 : MS_RDONLY);
	text_reset(&data);
	split_options(options, &m->flags, &data);
	if (!m->writable && (m->boot->plan.overlay.count || m->boot->plan.verity.count))
		m->flags |= MS_RDONLY;
	if (has_option(m->types, "auto"))
		m->types = "";
	refusal = m->discover ? NULL : refusal_of(m->boot, m->wanted, takes_any_source(m));
	if (refusal) {
		log_error("%s %s: %s; " WAY_OUT, m->what, m->wanted, refusal);
		return false;
	}
	until = seconds ? monotonic_ns() + seconds * SECOND : 0;
	err = retry(attempt_mount, log_waiting, m, &until);
	if (err == -ENODEV && m->here) {
		m->last = true;
		err = attempt_mount(m);
	}
	return err >= 0 || log_why(m, err, seconds);
}
