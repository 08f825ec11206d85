/* SPDX-License-Identifier: MIT
 *
 * See read_plan.h. The file is read into one mapping and cut in place: a line's escapes are undone and its fields
 * closed up, each ended by NUL, so names are pointers into that text and nothing is copied. Every table gets room for
 * one entry a line; memory that is not touched is not there.
 */
#include "read_plan.h"
#include "files.h"
#include "log.h"
#include "plan_records.h"

#define PLAN_PATH "/megamod/plan"

enum { MAX_PLAN = 64 << 20 };

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/* Cuts the line [s, end) into fields, in place. */
static bool cut_line(struct reader *r, char *s, const char *end, struct fields *fields)
{
	char *to = s;
	bool empty = true; /* nothing of the present field was read yet */
	int high, low;

	fields->first = s;
	fields->count = 1;
	for (; s < end; s++) {
		if (*s == ' ') {
			if (empty)
				return refuse(r, "two spaces, or a space at an end", NULL);
			*to++ = 0;
			fields->count++;
			empty = true;
			continue;
		}
		if (*s < 0x21 || *s > 0x7e)
			return refuse(r, "a byte that ought to be escaped", NULL);
		if (*s != '%') {
			*to++ = *s;
		} else if (!(empty && (s + 1 == end || s[1] == ' '))) { /* else: an empty field */
			high = end - s > 2 ? hex(s[1]) : -1;
			low = high < 0 ? -1 : hex(s[2]);
			if (low < 0 || !(high | low))
				return refuse(r, "a bad %XX escape", NULL);
			*to++ = (char)(high << 4 | low);
			s += 2;
		}
		empty = false;
	}
	if (empty)
		return refuse(r, "an empty line, or a space at its end", NULL);
	*to = 0; /* at the latest where the newline was */
	return true;
}

/* The whole file in a mapping of its own; *size is its length. */
static char *read_file(int at, const char *path, size_t *size, long *err)
{
	struct statx st;
	char *text = NULL;
	long fd;

	fd = at < 0 && at != AT_FDCWD ? at : sys_openat(at, path, O_RDONLY, 0); /* no folder: its errno */
	*err = fd;
	if (fd < 0)
		goto out;
	*err = sys_statx((int)fd, "", AT_EMPTY_PATH, &st);
	if (*err < 0)
		goto close;
	*err = -EFBIG;
	if (st.size > MAX_PLAN)
		goto close;
	*size = (size_t)st.size;
	*err = -ENOMEM;
	text = sys_map(*size + 2); /* a NUL, and room to see the end */
	if (!text)
		goto close;
	*err = read_small(at, path, text, *size + 2);
	if (*err >= 0 && (size_t)*err != *size)
		*err = -EIO;
close:
	sys_close((int)fd);
out:
	return *err < 0 ? NULL : text;
}

/* Room for `count` entries at the end of what has been laid out of a mapping; with base NULL only the size is counted.
 */
static void *lay_out(char *base, size_t *used, size_t count, size_t size)
{
	size_t at = (*used + 15) & ~(size_t)15;

	*used = at + count * size;
	return base ? base + at : NULL;
}

/* What the children of a stage write to: it is shared with them. */
static void lay_out_shared(struct plan *p, char *base, size_t *used, size_t lines)
{
	p->progress = lay_out(base, used, 1, sizeof(*p->progress));
	p->loads = lay_out(base, used, lines, sizeof(*p->loads));
	p->members = lay_out(base, used, lines, sizeof(*p->members));
}

static void lay_out_own(struct plan *p, char *base, size_t *used, size_t lines)
{
	p->originals = lay_out(base, used, lines, sizeof(*p->originals));
	p->arguments = lay_out(base, used, lines, sizeof(*p->arguments));
	p->prefixes = lay_out(base, used, lines, sizeof(*p->prefixes));
	p->softdeps = lay_out(base, used, lines, sizeof(*p->softdeps));
	p->skips = lay_out(base, used, lines, sizeof(*p->skips));
	p->dependents = lay_out(base, used, lines, sizeof(*p->dependents));
}

/* Two mappings for all tables: each page that a table of its own would begin costs time to clear, and at each fork().
 */
static bool make_tables(struct plan *p, size_t lines)
{
	size_t shared = 0, own = 0;
	char *at, *at_shared;

	lay_out_shared(p, NULL, &shared, lines);
	lay_out_own(p, NULL, &own, lines);
	at_shared = sys_map_shared(shared);
	at = sys_map(own);
	if (!at || !at_shared)
		return false;
	shared = own = 0;
	lay_out_shared(p, at_shared, &shared, lines);
	lay_out_own(p, at, &own, lines);
	return true;
}

bool read_plan(int at, const char *path, struct plan *p)
{
	struct reader r = { .line = 0, .plan = p };
	struct fields fields;
	size_t size = 0, lines = 1;
	char *text, *end, *s, *newline;
	long err = 0;

	p->watchdog = WATCHDOG_SECONDS;
	text = read_file(at, path, &size, &err);
	if (!text) {
		log_error("%s: cannot be read: %s", PLAN_PATH, errno_name(err));
		return false;
	}
	end = text + size;
	for (s = text; s < end; s++)
		lines += *s == '\n';
	if (!make_tables(p, lines)) {
		log_error("%s: no memory for its tables", PLAN_PATH);
		return false;
	}
	for (s = text; s < end && !r.problem; s = newline + 1) {
		r.line++;
		for (newline = s; newline < end && *newline != '\n'; newline++)
			;
		if (newline == end)
			refuse(&r, "the last line has no end: the file was cut off", NULL);
		else if (cut_line(&r, s, newline, &fields))
			take_record(&r, fields);
	}
	if (!r.problem && !p->stage_count)
		refuse(&r, "no stage: the file was cut off", NULL);
	check_originals(&r);
	if (r.problem)
		log_error("%s:%u: %s%s%s", PLAN_PATH, r.line, r.problem, r.detail ? " " : "", r.detail ? r.detail : "");
	return !r.problem;
}
