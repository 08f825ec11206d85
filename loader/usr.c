/* SPDX-License-Identifier: MIT
 *
 * See usr.h. The words are systemd's (systemd-fstab-generator(8)): mount.usr=, mount.usrfstype=, mount.usrflags=;
 * without them the line of /usr in the root's fstab counts, as in initramfs-tools. It is mounted as writable as the
 * root: init does the rest by its fstab.
 */
#include "usr.h"
#include "files.h"
#include "log.h"
#include "mounting.h"

enum { FSTAB_ROOM = 16384, FIELDS = 4 };

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

/* Cuts a line into its first fields, in place, with `\040` decoded (getmntent(3)); how many there are. */
static u32 cut_fields(char *s, char *fields[FIELDS])
{
	u32 n = 0;
	char *to;

	while (n < FIELDS) {
		while (is_blank(*s))
			s++;
		if (!*s || *s == '#')
			break;
		fields[n++] = to = s;
		while (*s && !is_blank(*s)) {
			if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' && s[3] >= '0' &&
			    s[3] <= '7') {
				*to++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
				s += 4;
			} else {
				*to++ = *s++;
			}
		}
		if (*s)
			s++;
		*to = 0;
	}
	return n;
}

/* The line of /usr in the root's fstab. */
static bool find_line(char *text, char *fields[FIELDS])
{
	char *line = text, *end;

	for (; *line; line = end) {
		for (end = line; *end && *end != '\n'; end++)
			;
		if (*end)
			*end++ = 0;
		if (cut_fields(line, fields) == FIELDS && streq(fields[1], "/usr"))
			return true;
	}
	return false;
}

bool mount_usr(struct boot *boot, u64 seconds)
{
	static struct mounting m;
	static char fstab[FSTAB_ROOM];
	const struct options *o = &boot->options;
	char *fields[FIELDS];
	const char *flags = o->usr_flags;

	memset(&m, 0, sizeof(m));
	m.boot = boot;
	m.what = "/usr";
	m.target = "/root/usr";
	m.wanted = o->usr;
	m.types = o->usr_fstype;
	m.usr = true;
	if (!o->usr[0]) {
		if (read_small(AT_FDCWD, "/root/etc/fstab", fstab, sizeof(fstab)) <= 0 || !find_line(fstab, fields) ||
		    in_list(fields[3], "noauto"))
			return true;
		m.wanted = fields[0];
		m.types = fields[2];
		flags = fields[3];
	}
	return mount_when_there(&m, flags, seconds) || in_list(flags, "nofail");
}
