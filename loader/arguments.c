/* SPDX-License-Identifier: MIT
 *
 * The argument text of a call: the profile's words, then those of the kernel command line that belong to the load
 * (later ones win, as parse_args takes them in turn), then the members to leave out, then async_probe.
 */
#include "arguments.h"
#include "log.h"
#include "parameters.h"

enum {
	ARGUMENT_ROOM = 65536, /* the command line is at most 4 KiB almost everywhere, a skip list 5 bytes a member */
	CHUNK = 256,	       /* members in one skip parameter */
};

static bool is_prefix(const struct boot *boot, const struct load *load, const char *key, size_t size)
{
	u32 i;

	for (i = 0; i < load->prefix_count; i++)
		if (same_module(key, size, boot->plan.prefixes[load->prefix + i]))
			return true;
	return false;
}

static struct member *find_member(struct boot *boot, const struct load *load, const char *key, size_t size)
{
	struct member *m = members_of(boot, load), *end = m + load->member_count;

	for (; m < end; m++)
		if (same_module(key, size, m->name))
			return m;
	return NULL;
}

/* The next word `KEY.…` of `at` that belongs to the load: to one of its members, or by a prefix to all of them (then
 * *m is NULL). `head` is the length of KEY. */
static bool next_own_word(struct boot *boot, const struct load *load, const char **at, struct word *w, size_t *head,
			  struct member **m)
{
	while (next_word(at, w)) {
		for (*head = 0; *head < w->key_size && w->key[*head] != '.'; ++*head)
			;
		if (!*head || *head == w->key_size)
			continue;
		*m = NULL;
		if (is_prefix(boot, load, w->key, *head))
			return true;
		*m = find_member(boot, load, w->key, *head);
		if (*m)
			return true;
	}
	return false;
}

static void add_word(struct text *t, const char *s, size_t size)
{
	if (t->used)
		text_add(t, " ");
	text_add_bytes(t, s, size);
}

/* The member of a megamodule that would refuse the word, or NULL. A word by a prefix is a parameter by its whole name.
 */
static struct member *who_refuses(struct boot *boot, const struct load *load, const struct word *w, size_t head,
				  struct member *owner)
{
	struct member *m = owner ? owner : members_of(boot, load);
	struct member *end = owner ? owner + 1 : m + load->member_count;
	size_t skip = owner ? head + 1 : 0;
	const char *kind;

	for (; m < end; m++) {
		kind = kind_of(m, w->key + skip, w->key_size - skip);
		if (kind && !takes_value(kind, w))
			return m;
	}
	return NULL;
}

u32 refuse_words(struct boot *boot, const struct load *load)
{
	const char *at = boot->cmdline;
	struct member *owner, *m;
	struct word w;
	size_t head;
	u32 out = 0;
	TEXT(word, 256);

	while (next_own_word(boot, load, &at, &w, &head, &owner)) {
		m = who_refuses(boot, load, &w, head, owner);
		if (!m || m->fate != FATE_PENDING)
			continue;
		text_reset(&word);
		text_add_bytes(&word, w.raw, w.raw_size);
		log_warning("%s: no value for a parameter of that kind (%s)", word.data,
			    kind_of(m, w.key + (owner ? head + 1 : 0), w.key_size - (owner ? head + 1 : 0)));
		if (!load->results)
			continue; /* it cannot be left out, the word can */
		log_warning("member %s failed: -EINVAL", m->name);
		m->fate = FATE_FAILED;
		m->result = -EINVAL;
		out++;
	}
	return out;
}

static bool judges_itself(struct boot *boot, const struct load *load, const struct member *m)
{
	const char *at = boot->cmdline, *kind;
	struct member *owner;
	struct word w;
	size_t head, skip;

	while (next_own_word(boot, load, &at, &w, &head, &owner)) {
		if (owner && owner != m)
			continue;
		skip = owner ? head + 1 : 0;
		kind = kind_of(m, w.key + skip, w.key_size - skip);
		if (kind && streq(kind, "own"))
			return true;
	}
	return false;
}

struct member *next_own_judge(struct boot *boot, const struct load *load, const struct member *after)
{
	struct member *m = members_of(boot, load), *end = m + load->member_count;

	for (; m < end; m++)
		if ((!after || m > after) && m->fate == FATE_PENDING && judges_itself(boot, load, m))
			return m;
	return NULL;
}

/*
 * Adds the words of `at` that belong to the load. They stay as they are written, quotes included, as the call's
 * arguments go through the same lexer. Only a module by itself gets `member.` taken off; an opening quote before it is
 * kept. A member's original gets the words of every prefix of its megamodule: the plan does not say whose they are, and
 * the kernel ignores a parameter that a module has not (parse_args, kernel/params.c; unknown_module_param_cb).
 */
static void add_words(struct boot *boot, const struct load *load, const char *at, struct text *t)
{
	struct member *m;
	const char *rest;
	struct word w;
	size_t head;

	while (next_own_word(boot, load, &at, &w, &head, &m)) {
		if (!m || load->merged) {
			/* Those of a member that is left out are parsed all the same. */
			if (!load->merged || !((m && m->fate != FATE_PENDING) || who_refuses(boot, load, &w, head, m)))
				add_word(t, w.raw, w.raw_size);
			continue;
		}
		rest = w.key + head + 1;
		add_word(t, w.raw, (size_t)(w.key - w.raw));
		text_add_bytes(t, rest, w.raw_size - (size_t)(rest - w.raw));
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

const char *command_line_words(struct boot *boot, const struct load *load)
{
	static char room[ARGUMENT_ROOM];
	struct text t = { room, sizeof(room), 0, false };

	text_reset(&t);
	add_words(boot, load, boot->cmdline, &t);
	return t.data;
}

const char *call_arguments(struct boot *boot, const struct load *load, bool words, bool skips)
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
	if (words)
		add_words(boot, load, boot->cmdline, &t);
	if (skips)
		add_skips(boot, load, &t);
	if (boot->plan.async_probe)
		add_word(&t, "async_probe", 11);
	return t.cut ? NULL : t.data;
}
