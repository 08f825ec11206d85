/* SPDX-License-Identifier: MIT
 *
 * The argument text of a call: the profile's words, then those of the kernel command line that belong to the load
 * (later ones win, as parse_args takes them in turn), then the members to leave out, then async_probe.
 */
#include "arguments.h"

enum {
	ARGUMENT_ROOM = 65536, /* the command line is at most 4 KiB almost everywhere, a skip list 5 bytes a member */
	CHUNK = 256,	       /* members in one skip parameter */
};

/* Does a word `KEY.…` belong to this load? Prefixes keep their word whole, see add_words(). */
static bool is_prefix(const struct boot *boot, const struct load *load, const char *key, size_t size)
{
	u32 i;

	for (i = 0; i < load->prefix_count; i++)
		if (same_module(key, size, boot->plan.prefixes[load->prefix + i]))
			return true;
	return false;
}

static bool is_member(struct boot *boot, const struct load *load, const char *key, size_t size)
{
	const struct member *m = members_of(boot, load);
	u32 i;

	for (i = 0; i < load->member_count; i++)
		if (same_module(key, size, m[i].name))
			return true;
	return false;
}

static void add_word(struct text *t, const char *s, size_t size)
{
	if (t->used)
		text_add(t, " ");
	text_add_bytes(t, s, size);
}

/*
 * Adds the words of `at` that belong to the load. They stay as they are written, quotes included, as the call's
 * arguments go through the same lexer. Only a module by itself gets `member.` taken off; an opening quote before it is
 * kept. A member's original gets the words of every prefix of its megamodule: the plan does not say whose they are, and
 * the kernel ignores a parameter that a module has not (parse_args, kernel/params.c; unknown_module_param_cb).
 */
static void add_words(struct boot *boot, const struct load *load, const char *at, struct text *t)
{
	const char *dot;
	struct word w;
	size_t head;

	while (next_word(&at, &w)) {
		for (dot = w.key; dot < w.key + w.key_size && *dot != '.'; dot++)
			;
		head = (size_t)(dot - w.key);
		if (!head || head == w.key_size)
			continue;
		if (is_prefix(boot, load, w.key, head) || (load->merged && is_member(boot, load, w.key, head))) {
			add_word(t, w.raw, w.raw_size);
		} else if (is_member(boot, load, w.key, head)) {
			add_word(t, w.raw, (size_t)(w.key - w.raw));
			text_add_bytes(t, dot + 1, w.raw_size - (size_t)(dot + 1 - w.raw));
		}
	}
}

/* `skip=0,7 skip1=3`: indices within the load, 256 to a parameter. */
static void add_skips(struct boot *boot, const struct load *load, struct text *t)
{
	const struct member *m = members_of(boot, load);
	u32 i, chunk = 0;
	bool open = false;

	for (i = 0; i < load->member_count; i++) {
		if (i - chunk * CHUNK == CHUNK) {
			chunk++;
			open = false;
		}
		if (m[i].fate == FATE_PENDING)
			continue;
		if (!open) {
			add_word(t, "skip", 4);
			if (chunk)
				text_format(t, "%u", chunk);
		}
		text_format(t, "%c%u", open ? ',' : '=', i - chunk * CHUNK);
		open = true;
	}
}

const char *call_arguments(struct boot *boot, const struct load *load, bool skips)
{
	static char room[ARGUMENT_ROOM];
	struct text t = { room, sizeof(room), 0, false };
	const char *own;
	u32 i;

	text_reset(&t);
	for (i = 0; i < load->argument_count; i++) {
		own = boot->plan.arguments[load->argument + i];
		if (load->original)
			add_words(boot, load, own, &t);
		else
			add_word(&t, own, length(own));
	}
	add_words(boot, load, boot->cmdline, &t);
	if (skips)
		add_skips(boot, load, &t);
	if (boot->plan.async_probe)
		add_word(&t, "async_probe", 11);
	return t.cut ? NULL : t.data;
}
