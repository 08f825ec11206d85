/* SPDX-License-Identifier: MIT
 *
 * See keeper.h. What another generator's init is about to remove with the initramfs, and is needed later: 40 KiB or so.
 */
#include "keeper.h"
#include "say.h"

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
		warn("/run/megamod/image cannot be made: %s", errno_name(err));
	return err < 0 ? err : to;
}
