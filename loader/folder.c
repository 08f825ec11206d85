/* SPDX-License-Identifier: MIT
 *
 * See folder.h. Entries may be removed while the walk goes on: tmpfs, ramfs and sysfs keep their place.
 */
#include "folder.h"

enum { ENTRIES_ROOM = 2048 };

static bool is_dots(const char *name)
{
	return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

long walk(int at, const char *path, visit *each, void *context)
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
