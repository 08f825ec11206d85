/* SPDX-License-Identifier: MIT
 *
 * See files.h.
 */
#include "files.h"

enum {
	ENTRIES_ROOM = 2048,
	MAX_DEPTH = 128, /* of folders that are removed */
};

long read_small(int at, const char *path, char *data, size_t size)
{
	long fd = sys_openat(at, path, O_RDONLY, 0);
	size_t used = 0;
	long got = 1;

	data[0] = 0;
	if (fd < 0)
		return fd;
	while (got > 0 && used < size - 1) {
		got = sys_read((int)fd, data + used, size - 1 - used);
		if (got == -EINTR)
			got = 1;
		else if (got > 0)
			used += (size_t)got;
	}
	data[used] = 0;
	sys_close((int)fd);
	if (got < 0)
		return got;
	return got ? -E2BIG : (long)used; /* the buffer is full, and the end was not seen */
}

long write_all(int fd, const char *data, size_t size)
{
	long put;

	while (size) {
		put = sys_write(fd, data, size);
		if (put == -EINTR)
			continue;
		if (put <= 0)
			return put ? put : -EIO;
		data += put;
		size -= (size_t)put;
	}
	return 0;
}

long replace_file(int at, const char *folder, const char *name, const char *data, size_t size)
{
	TEXT(path, 128);
	TEXT(other, 128);
	long fd, err;

	err = sys_mkdirat(at, folder, 0755);
	if (err < 0 && err != -EEXIST)
		return err;
	text_format(&path, "%s/%s", folder, name);
	text_format(&other, "%s/.%s", folder, name);
	fd = sys_openat(at, other.data, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	if (fd < 0)
		return fd;
	err = write_all((int)fd, data, size);
	sys_close((int)fd);
	if (err >= 0)
		err = sys_renameat(at, other.data, path.data);
	if (err < 0)
		sys_unlinkat(at, other.data, 0);
	return err;
}

static bool is_dots(const char *name)
{
	return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

long walk_folder(int at, const char *path, visit *each, void *context)
{
	u64 room[ENTRIES_ROOM / 8]; /* aligned for struct dirent64 */
	const struct dirent64 *entry;
	long fd, got, offset;

	fd = sys_openat(at, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	if (fd < 0)
		return fd;
	while ((got = sys_getdents64((int)fd, room, sizeof(room))) > 0)
		for (offset = 0; offset < got; offset += entry->reclen) {
			entry = (const struct dirent64 *)((const char *)room + offset);
			if (!is_dots(entry->name) && each(context, (int)fd, entry->name, entry->type)) {
				got = 1;
				goto out;
			}
		}
out:
	sys_close((int)fd);
	return got;
}

struct emptying {
	u32 major, minor; /* of the folder: nothing beyond is touched */
	u32 depth;
	const char *spared;
};

static bool remove_entry(void *context, int folder, const char *name, u8 type)
{
	struct emptying *e = context;
	struct statx st;

	if (!e->depth && e->spared && streq(name, e->spared))
		return false;
	if (type == DT_DIR) {
		if (sys_statx(folder, name, AT_SYMLINK_NOFOLLOW, &st) < 0 || st.dev_major != e->major ||
		    st.dev_minor != e->minor || e->depth == MAX_DEPTH)
			return false;
		e->depth++;
		walk_folder(folder, name, remove_entry, e);
		e->depth--;
	}
	sys_unlinkat(folder, name, type == DT_DIR ? AT_REMOVEDIR : 0);
	return false;
}

void empty_folder(int at, const char *path, const char *spared)
{
	struct emptying e = { .spared = spared };
	struct statx st;

	if (sys_statx(at, path, AT_SYMLINK_NOFOLLOW, &st) < 0)
		return;
	e.major = st.dev_major;
	e.minor = st.dev_minor;
	walk_folder(at, path, remove_entry, &e);
}
