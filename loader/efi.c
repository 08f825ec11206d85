/* SPDX-License-Identifier: MIT
 *
 * See efi.h (systemd.io/BOOT_LOADER_INTERFACE). efivarfs is mounted for the time
 * of the reading if it is not there, so that whoever comes later finds /sys as the kernel made it.
 */
#include "efi.h"

#define VARIABLES "/sys/firmware/efi/efivars"
#define LOADER_GUID "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"

enum { ATTRIBUTES = 4 }; /* bytes before the value, in efivarfs */

static long read_variable(const struct boot *boot, const char *name, u8 *data, size_t room)
{
	TEXT(path, 192);
	long fd, got;

	text_format(&path, "firmware/efi/efivars/%s", name);
	fd = sys_openat(boot->sys, path.data, O_RDONLY, 0);
	if (fd < 0)
		return fd;
	got = sys_read((int)fd, data, room);
	sys_close((int)fd);
	if (got < ATTRIBUTES)
		return got < 0 ? got : -ENODATA;
	got -= ATTRIBUTES;
	memcpy(data, data + ATTRIBUTES, (size_t)got);
	return got;
}

long read_efi_variable(const struct boot *boot, const char *name, u8 *data, size_t room)
{
	bool mounted = false;
	long got = read_variable(boot, name, data, room);

	if (got == -ENOENT && sys_faccessat(boot->sys, "firmware/efi/efivars", 0) >= 0)
		mounted = sys_mount("efivarfs", VARIABLES, "efivarfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY,
				    NULL) >= 0;
	if (!mounted)
		return got;
	got = read_variable(boot, name, data, room);
	sys_umount(VARIABLES, MNT_DETACH);
	return got;
}

bool find_boot_partition(const struct boot *boot, char uuid[UUID_ROOM])
{
	u8 data[ATTRIBUTES + 2 * UUID_ROOM];
	char text[LABEL_ROOM];
	long got = read_efi_variable(boot, "LoaderDevicePartUUID-" LOADER_GUID, data, sizeof(data));

	if (got < 72)
		return false;
	put_wide_label(text, data, 36);
	memcpy(uuid, text, 36);
	uuid[36] = 0;
	return length(uuid) == 36;
}
