/* SPDX-License-Identifier: MIT
 *
 * See cmdline.h. Words are cut as next_arg() does it (lib/cmdline.c, 6.1): white space outside double quotes ends a
 * word, a quote may stand anywhere, and a value or a whole word in quotes loses them. A lone `--` ends the kernel's
 * parameters (parse_args, kernel/params.c).
 */
#include "cmdline.h"

static bool is_space(char c)
{
	/* lib/ctype.c has 0xa0 as a space too */
	return c == ' ' || (c >= '\t' && c <= '\r') || (u8)c == 0xa0;
}

bool next_word(const char **at, struct word *word)
{
	const char *s = *at, *equals = NULL, *start, *end;
	bool quoted, inside;

	while (is_space(*s))
		s++;
	if (!*s)
		return false;
	word->raw = s;
	quoted = inside = *s == '"';
	if (quoted)
		s++;
	for (start = s; *s && (inside || !is_space(*s)); s++) {
		if (*s == '=' && !equals && s > start) /* next_arg() takes index 0 for "none yet" */
			equals = s;
		if (*s == '"')
			inside = !inside;
	}
	*at = s;
	word->raw_size = (size_t)(s - word->raw);
	end = s;
	word->value = NULL;
	word->value_size = 0;
	word->key = start;
	if (equals) {
		word->key_size = (size_t)(equals - start);
		word->value = equals + 1;
		if (*word->value == '"' && word->value < end) {
			word->value++;
			if (end > word->value && end[-1] == '"')
				end--;
			quoted = false;
		}
	}
	if (quoted && end > start && end[-1] == '"')
		end--;
	if (word->value)
		word->value_size = (size_t)(end - word->value);
	else
		word->key_size = (size_t)(end - start);
	return !(word->raw_size == 2 && word->raw[0] == '-' && word->raw[1] == '-');
}

bool key_is(const struct word *word, const char *key)
{
	return same_module(word->key, word->key_size, key);
}

static void copy_value(char *to, size_t room, const struct word *word)
{
	struct text t = { to, room, 0, false };

	text_reset(&t);
	if (word->value)
		text_add_bytes(&t, word->value, word->value_size);
	if (t.cut)
		text_reset(&t); /* half a name would be the wrong name */
}

static void append(char *to, size_t room, const char *value, size_t size)
{
	struct text t = { to, room, length(to), false };
	size_t before = t.used;

	if (t.used)
		text_add(&t, ",");
	text_add_bytes(&t, value, size);
	if (!t.cut)
		return;
	/* Half a name would be the wrong name. */
	for (; t.used > before && to[t.used] != ','; t.used--)
		;
	to[t.used] = 0;
}

/* Joins the values of a repeated option by commas. */
static void append_value(char *to, size_t room, const struct word *word)
{
	append(to, room, word->value ? word->value : "", word->value_size);
}

static u64 number_of(const struct word *word)
{
	const char *s = word->value;
	u64 n = 0;

	return s && take_number(&s, &n) ? n : 0;
}

static bool value_is(const struct word *word, const char *value)
{
	return word->value && word->value_size == length(value) && !memcmp(word->value, value, word->value_size);
}

/*
 * dracut's points (dracut.cmdline(7), rd.break), as ours. Its drivers are loaded by udev, so what comes before udev is
 * before the critical stage.
 */
static const struct {
	const char *theirs, *ours;
} breaks[] = {
	{ "cmdline", "pre-load" },     { "pre-udev", "pre-load" },   { "pre-trigger", "pre-load" },
	{ "initqueue", "pre-mount" },  { "pre-mount", "pre-mount" }, { "mount", "pre-mount" },
	{ "pre-pivot", "pre-switch" }, { "cleanup", "pre-switch" },
};

static void add_break(struct options *o, const struct word *w)
{
	const char *ours = w->value ? NULL : "pre-switch";
	size_t i;

	for (i = 0; i < sizeof(breaks) / sizeof(breaks[0]); i++)
		if (value_is(w, breaks[i].theirs))
			ours = breaks[i].ours;
	if (ours)
		append(o->break_at, sizeof(o->break_at), ours, length(ours));
}

static void read_emergency(struct options *o, const struct word *w)
{
	if (value_is(w, "reboot"))
		o->emergency = EMERGENCY_REBOOT;
	else if (value_is(w, "poweroff"))
		o->emergency = EMERGENCY_POWEROFF;
	else if (value_is(w, "halt"))
		o->emergency = EMERGENCY_HALT;
}

#define TEXT_OPTION(key, field) { key, offsetof(struct options, field), sizeof(((struct options *)0)->field) }

/* Options whose value is kept as text. */
static const struct {
	const char *key;
	u16 offset, room;
} texts[] = {
	TEXT_OPTION("root", root),
	TEXT_OPTION("rootfstype", fstype),
	TEXT_OPTION("rootflags", flags),
	TEXT_OPTION("init", init),
	TEXT_OPTION("roothash", root_hash),
	TEXT_OPTION("module_blacklist", kernel_blacklist),
	TEXT_OPTION("resume", resume),
	TEXT_OPTION("mount.usr", usr),
	TEXT_OPTION("mount.usrfstype", usr_fstype),
	TEXT_OPTION("mount.usrflags", usr_flags),
};

void read_options(const char *cmdline, struct options *o)
{
	struct word w;
	size_t i;

	while (next_word(&cmdline, &w)) {
		for (i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
			if (key_is(&w, texts[i].key))
				copy_value((char *)o + texts[i].offset, texts[i].room, &w);
		if (key_is(&w, "megamod"))
			o->off = value_is(&w, "off");
		else if (key_is(&w, "megamod.debug") || key_is(&w, "rd.debug"))
			o->debug = !value_is(&w, "0");
		else if (key_is(&w, "megamod.break"))
			append_value(o->break_at, sizeof(o->break_at), &w);
		else if (key_is(&w, "rd.break"))
			add_break(o, &w);
		else if (key_is(&w, "rd.emergency"))
			read_emergency(o, &w);
		else if (key_is(&w, "panic"))
			o->panics = w.value_size && !value_is(&w, "0");
		else if (key_is(&w, "rd.shell"))
			o->no_shell = value_is(&w, "0") || value_is(&w, "no") || value_is(&w, "off");
		else if (key_is(&w, "megamod.times"))
			o->times = !value_is(&w, "0");
		else if (key_is(&w, "megamod.skip"))
			append_value(o->skip, sizeof(o->skip), &w);
		else if (key_is(&w, "modprobe.blacklist"))
			append_value(o->kmod_blacklist, sizeof(o->kmod_blacklist), &w);
		else if (key_is(&w, "rd.driver.blacklist"))
			append_value(o->dracut_blacklist, sizeof(o->dracut_blacklist), &w);
		else if (key_is(&w, "megamod.run"))
			append_value(o->run, sizeof(o->run), &w);
		else if (key_is(&w, "megamod.deferred")) {
			o->deferred_now = value_is(&w, "now");
			o->deferred_off = value_is(&w, "off");
		} else if (key_is(&w, "ro") || key_is(&w, "rw")) {
			if (!w.value)
				o->writable = w.key[1] == 'w';
		} else if (key_is(&w, "rootwait")) {
			o->wait_given = true;
			o->wait_forever = !w.value;
			o->wait_seconds = number_of(&w);
		} else if (key_is(&w, "rd.timeout")) {
			if (w.value_size && !o->wait_given) {
				o->wait_seconds = number_of(&w);
				o->wait_forever = !o->wait_seconds;
			}
		} else if (key_is(&w, "rootdelay"))
			o->delay_seconds = number_of(&w);
		else if (key_is(&w, "resume_offset"))
			o->resume_offset = number_of(&w);
		else if (key_is(&w, "noresume"))
			o->no_resume = true;
		else if (key_is(&w, "usrhash"))
			o->has_usr_hash = true;
	}
}

static bool is_listed(const char *list, const char *name, bool exactly)
{
	const char *end;
	size_t size;

	while (*list) {
		for (end = list; *end && *end != ','; end++)
			;
		size = (size_t)(end - list);
		if (same_module(list, size, name) && !(exactly && memcmp(list, name, size)))
			return true;
		list = *end ? end + 1 : end;
	}
	return false;
}

bool in_list(const char *list, const char *name)
{
	return is_listed(list, name, false);
}

bool in_exact_list(const char *list, const char *name)
{
	return is_listed(list, name, true);
}
