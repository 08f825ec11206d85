/* SPDX-License-Identifier: MIT
 *
 * See image_files.h.
 */
#include "image_files.h"
#include "files.h"
#include "log.h"

/* Files of the image are reached through its folder, wherever that is by now. */
static const char *below_image(const struct boot *boot, const char *path, int *at)
{
	*at = starts_with(path, IMAGE_FOLDER) ? boot->image : AT_FDCWD;
	return *at == AT_FDCWD ? path : path + length(IMAGE_FOLDER);
}

long open_image_file(const struct boot *boot, const struct image_file *file)
{
	const char *path;
	int at;

	if (file->fd >= 0)
		return file->fd;
	path = below_image(boot, file->path, &at);
	return sys_openat(at, path, O_RDONLY, 0);
}

void remove_image_file(const struct boot *boot, struct image_file *file)
{
	const char *path;
	int at;

	if (file->fd >= 0)
		sys_close(file->fd);
	file->fd = -1;
	path = below_image(boot, file->path, &at);
	if (at != AT_FDCWD)
		sys_unlinkat(at, path, 0); /* another generator may have removed it already */
}

/*
 * With `chain` the next generator removes the files, so they are held open; a stage may have many. Each costs the
 * kernel some 256 bytes.
 */
static void hold_image_file(const struct boot *boot, struct image_file *file)
{
	long fd = open_image_file(boot, file);

	if (fd < 0)
		log_warning("%s cannot be opened: %s", file->path, errno_name(fd));
	else
		file->fd = (int)fd;
}

void hold_image_files(struct boot *boot)
{
	struct plan *p = &boot->plan;
	struct rlimit64 limit;
	u32 i;

	if (sys_get_nofile(&limit) >= 0) {
		limit.soft = limit.hard;
		sys_set_nofile(&limit); /* if it stays low, opening fails below and is reported there */
	}
	for (i = first_deferred(boot)->load; i < p->load_count; i++) {
		hold_image_file(boot, &p->loads[i].file);
		if (p->loads[i].names.path)
			hold_image_file(boot, &p->loads[i].names);
	}
	for (i = p->loads[first_deferred(boot)->load].originals; i < p->original_count; i++)
		hold_image_file(boot, &p->originals[i]);
}

static long copy(int from, int to, const char *name, int mode)
{
	char block[4096];
	long in = sys_openat(from, name, O_RDONLY, 0), out, got = 0, err;

	if (in < 0)
		return in;
	err = out = sys_openat(to, name, O_WRONLY | O_CREAT | O_TRUNC, mode);
	while (err >= 0 && (got = sys_read((int)in, block, sizeof(block))) > 0)
		err = write_all((int)out, block, (size_t)got);
	sys_close((int)in);
	sys_close((int)out);
	return err < 0 ? err : got;
}

long copy_image(const struct boot *boot)
{
	long to, err;

	sys_mkdirat(boot->run, "megamod", 0755);
	sys_mkdirat(boot->run, "megamod/image", 0755);
	err = to = sys_openat(boot->run, "megamod/image", O_RDONLY | O_DIRECTORY, 0);
	if (err >= 0)
		err = copy(boot->image, (int)to, "plan", 0644);
	if (err >= 0)
		err = copy(boot->image, (int)to, "outcome", 0644);
	if (err >= 0)
		err = copy(boot->image, (int)to, "ctl", 0755);
	if (err < 0)
		log_warning("/run/megamod/image cannot be made: %s", errno_name(err));
	return err < 0 ? err : to;
}
