/* SPDX-License-Identifier: MIT
 *
 * See lsmod.h. /proc/modules has six fields a line: name, size, users, their names with a comma behind each or `-`,
 * state, address (m_show, kernel/module/procfs.c, 6.1); lsmod shows the first four.
 */
#include "lsmod.h"
#include "files.h"

enum { NAME_WIDTH = 20, SIZE_WIDTH = 8 };

static void pad(struct text *t, size_t from, size_t width)
{
	while (t->used - from < width && !t->cut)
		text_add(t, " ");
}

static void add_row(struct text *t, const char *name, size_t name_size, const char *size, size_t size_size)
{
	size_t start = t->used;

	text_add_bytes(t, name, name_size);
	pad(t, start, NAME_WIDTH - 1);
	text_add(t, " ");
	start = t->used;
	pad(t, start, SIZE_WIDTH - (size_size < SIZE_WIDTH ? size_size : SIZE_WIDTH));
	text_add_bytes(t, size, size_size);
	text_add(t, "  ");
}

static bool needs(const struct member *m, u32 id)
{
	struct fields f = m->needs;
	const char *at;
	u64 other;

	for (; f.count; f.count--, f.first = next_field(f.first)) {
		at = f.first;
		if (take_number(&at, &other) && other == id)
			return true;
	}
	return false;
}

static void add_member(const struct boot *boot, u32 id, struct text *t)
{
	const struct plan *p = &boot->plan;
	const char *name = p->members[id].name;
	u32 i, users = 0;
	bool first = true;

	for (i = id + 1; i < p->member_count; i++)
		users += has_run(&p->members[i]) && needs(&p->members[i], id);
	add_row(t, name, length(name), "0", 1);
	text_format(t, "%u", users);
	for (i = id + 1; users && i < p->member_count; i++)
		if (has_run(&p->members[i]) && needs(&p->members[i], id)) {
			text_format(t, "%c%s", first ? ' ' : ',', p->members[i].name);
			first = false;
		}
	text_add(t, "\n");
}

static const struct load *load_called(const struct boot *boot, const char *name, size_t size)
{
	const struct load *l = boot->plan.loads, *end = l + boot->plan.load_count;

	for (; l < end; l++)
		if (l->merged && same_module(name, size, l->name))
			return l;
	return NULL;
}

/* Field n of a line, from 0. */
static const char *field(const char *s, u32 n, size_t *size)
{
	const char *end;

	for (; n; n--) {
		while (*s && *s != ' ' && *s != '\n')
			s++;
		s += *s == ' ';
	}
	for (end = s; *end && *end != ' ' && *end != '\n'; end++)
		;
	*size = (size_t)(end - s);
	return s;
}

static void add_line(const struct boot *boot, const char *line, struct text *t)
{
	size_t name, size, count, users;
	const char *s = field(line, 0, &name), *bytes = field(line, 1, &size), *number = field(line, 2, &count),
		   *who = field(line, 3, &users);
	const struct load *load = load_called(boot, s, name);
	u32 i;

	if (load && load->method == METHOD_OWN) {
		for (i = load->member; i < load->member + load->member_count; i++)
			if (has_run(&boot->plan.members[i]))
				add_member(boot, i, t);
		return;
	}
	add_row(t, s, name, bytes, size);
	text_add_bytes(t, number, count);
	if (users && *who != '-') {
		text_add(t, " ");
		text_add_bytes(t, who, users - (who[users - 1] == ','));
	}
	text_add(t, "\n");
}

void write_lsmod(const struct boot *boot, struct text *t)
{
	char *modules = sys_map(LSMOD_ROOM);
	const char *line;

	text_add(t, "Module                  Size  Used by\n");
	if (!modules || read_small(boot->proc, "modules", modules, LSMOD_ROOM) < 0)
		return;
	for (line = modules; *line; line++) {
		add_line(boot, line, t);
		while (*line && *line != '\n')
			line++;
		if (!*line)
			break;
	}
}
