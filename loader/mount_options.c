/* SPDX-License-Identifier: MIT
 *
 * Mount options as people copy them from fstab. The words and their flags are those of util-linux 2.41
 * (libmount/src/optmap.c: linux_flags_map, userspace_opts_map). The exceptions: `user`, `users`, `owner` and `group`
 * bring no `noexec` along, since a root that nothing can be executed from is of no use; the words for the propagation
 * of mounts are left out, as init sets that for the whole tree, and those for another thing than mounting a device.
 */
#include "mount_options.h"

enum {
	SET,
	CLEAR,
	DROP,	     /* this word */
	DROP_VALUE,  /* with `=` and anything, or alone */
	DROP_PREFIX, /* and anything */
};

enum { MS_NOSYMFOLLOW = 256, MS_MANDLOCK = 64, MS_I_VERSION = 1 << 23 };

#define FLAG(word, flag, action) { word, __builtin_ctz(flag), action }

static const struct {
	char word[14];
	u8 bit, action; /* of the flags */
} words[] = {
	FLAG("ro", MS_RDONLY, SET),
	FLAG("rw", MS_RDONLY, CLEAR),
	FLAG("exec", MS_NOEXEC, CLEAR),
	FLAG("noexec", MS_NOEXEC, SET),
	FLAG("suid", MS_NOSUID, CLEAR),
	FLAG("nosuid", MS_NOSUID, SET),
	FLAG("dev", MS_NODEV, CLEAR),
	FLAG("nodev", MS_NODEV, SET),
	FLAG("sync", MS_SYNCHRONOUS, SET),
	FLAG("async", MS_SYNCHRONOUS, CLEAR),
	FLAG("dirsync", MS_DIRSYNC, SET),
	FLAG("silent", MS_SILENT, SET),
	FLAG("loud", MS_SILENT, CLEAR),
	FLAG("mand", MS_MANDLOCK, SET),
	FLAG("nomand", MS_MANDLOCK, CLEAR),
	FLAG("atime", MS_NOATIME, CLEAR),
	FLAG("noatime", MS_NOATIME, SET),
	FLAG("iversion", MS_I_VERSION, SET),
	FLAG("noiversion", MS_I_VERSION, CLEAR),
	FLAG("diratime", MS_NODIRATIME, CLEAR),
	FLAG("nodiratime", MS_NODIRATIME, SET),
	FLAG("relatime", MS_RELATIME, SET),
	FLAG("norelatime", MS_RELATIME, CLEAR),
	FLAG("strictatime", MS_STRICTATIME, SET),
	FLAG("nostrictatime", MS_STRICTATIME, CLEAR),
	FLAG("lazytime", MS_LAZYTIME, SET),
	FLAG("nolazytime", MS_LAZYTIME, CLEAR),
	FLAG("symfollow", MS_NOSYMFOLLOW, CLEAR),
	FLAG("nosymfollow", MS_NOSYMFOLLOW, SET),
	{ "defaults", 0, DROP },
	{ "auto", 0, DROP },
	{ "noauto", 0, DROP },
	{ "nofail", 0, DROP },
	{ "_netdev", 0, DROP },
	{ "user", 0, DROP_VALUE },
	{ "nouser", 0, DROP },
	{ "users", 0, DROP },
	{ "nousers", 0, DROP },
	{ "owner", 0, DROP },
	{ "noowner", 0, DROP },
	{ "group", 0, DROP },
	{ "nogroup", 0, DROP },
	{ "comment", 0, DROP_VALUE },
	{ "loop", 0, DROP_VALUE },
	{ "offset", 0, DROP_VALUE },
	{ "sizelimit", 0, DROP_VALUE },
	{ "encryption", 0, DROP_VALUE },
	{ "helper", 0, DROP_VALUE },
	{ "uhelper", 0, DROP_VALUE },
	{ "x-", 0, DROP_PREFIX },
	{ "X-", 0, DROP_PREFIX },
	{ "verity.", 0, DROP_PREFIX },
	{ "private", 0, DROP },
	{ "rprivate", 0, DROP },
	{ "shared", 0, DROP },
	{ "rshared", 0, DROP },
	{ "slave", 0, DROP },
	{ "rslave", 0, DROP },
	{ "unbindable", 0, DROP },
	{ "runbindable", 0, DROP },
	{ "remount", 0, DROP },
	{ "bind", 0, DROP },
	{ "rbind", 0, DROP },
};

/* Where this option ends; commas between double quotes belong to it. */
static const char *end_of(const char *s)
{
	bool inside = false;

	for (; *s && (inside || *s != ','); s++)
		if (*s == '"')
			inside = !inside;
	return s;
}

static bool take_word(const char *s, size_t size, u32 *flags)
{
	size_t i, n;

	for (i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		n = length(words[i].word);
		if (size < n || memcmp(s, words[i].word, n))
			continue;
		if (size > n && words[i].action != DROP_PREFIX && !(words[i].action == DROP_VALUE && s[n] == '='))
			continue;
		if (words[i].action == SET)
			*flags |= 1u << words[i].bit;
		else if (words[i].action == CLEAR)
			*flags &= ~(1u << words[i].bit);
		return true;
	}
	return false;
}

void split_options(const char *s, u32 *flags, struct text *data)
{
	const char *end;

	for (; *s; s = *end ? end + 1 : end) {
		end = end_of(s);
		if (end == s || take_word(s, (size_t)(end - s), flags))
			continue;
		if (data->used)
			text_add(data, ",");
		text_add_bytes(data, s, (size_t)(end - s));
	}
}

const char *find_option(const char *s, const char *start)
{
	for (; *s; s = *end_of(s) ? end_of(s) + 1 : end_of(s))
		if (starts_with(s, start))
			return s;
	return NULL;
}

bool has_option(const char *s, const char *word)
{
	const char *end;

	for (; *s; s = *end ? end + 1 : end) {
		end = end_of(s);
		if ((size_t)(end - s) == length(word) && !memcmp(s, word, length(word)))
			return true;
	}
	return false;
}
