/* SPDX-License-Identifier: MIT
 *
 * See parameters.h. The rules are those of kernel/params.c, lib/kstrtox.c (6.1): numbers are decimal, octal or
 * hexadecimal by their beginning, with one sign and perhaps a newline at the end.
 */
#include "parameters.h"

enum { MAX_CHARP = 1024 /* param_set_charp() */ };

static const struct {
	char name[8];
	u8 bits; /* 0: of a long */
	bool negative;
} numbers[] = {
	{ "byte", 8, false },  { "short", 16, true },	{ "ushort", 16, false },
	{ "int", 32, true },   { "uint", 32, false },	{ "long", 0, true },
	{ "ulong", 0, false }, { "ullong", 64, false }, { "hexint", 32, false },
};

static int digit_of(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
}

/* kstrtoull() and kstrtoll() with base 0 */
static bool is_number(const char *s, size_t size, u32 bits, bool negative)
{
	const char *end = s + size;
	u64 limit, value = 0;
	u32 base = 10;
	bool minus = negative && size && *s == '-';

	if (size && (minus || *s == '+'))
		s++;
	if (end > s && end[-1] == '\n')
		end--;
	if (end - s > 1 && *s == '0') {
		base = 8;
		if ((s[1] | 0x20) == 'x' && end - s > 2 && digit_of(s[2]) < 16) {
			base = 16;
			s += 2;
		}
	}
	if (s == end)
		return false;
	limit = negative ? (1ull << (bits - 1)) - !minus : ~0ull >> (64 - bits);
	for (; s < end; s++) {
		if (digit_of(*s) >= (int)base || value > divide(limit, base, NULL) ||
		    (u64)digit_of(*s) > limit - value * base)
			return false;
		value = value * base + (u64)digit_of(*s);
	}
	return true;
}

/* kstrtobool(), as newer kernels have it: t and f, too */
static bool is_bool(const char *s, size_t size)
{
	char first = size ? (char)(*s | 0x20) : 0, second = size > 1 ? (char)(s[1] | 0x20) : 0;

	if (first == 'o')
		return second == 'n' || second == 'f';
	return first == 'y' || first == 't' || first == 'n' || first == 'f' || (size && (*s == '0' || *s == '1'));
}

static bool kind_is(const char *kind, size_t size, const char *name)
{
	return length(name) == size && !memcmp(kind, name, size);
}

/* One value, or one of an array. */
static bool takes_one(const char *kind, size_t kind_size, const char *value, size_t size)
{
	u64 most;
	size_t i;

	for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		if (kind_is(kind, kind_size, numbers[i].name))
			return is_number(value, size, numbers[i].bits ? numbers[i].bits : 8 * sizeof(long),
					 numbers[i].negative);
	if (kind_is(kind, kind_size, "bool") || kind_is(kind, kind_size, "invbool") || kind_is(kind, kind_size, "bint"))
		return is_bool(value, size);
	if (kind_is(kind, kind_size, "charp"))
		return size <= MAX_CHARP;
	if (starts_with(kind, "string:")) {
		kind += 7;
		return take_number(&kind, &most) && size < most;
	}
	return true;
}

bool takes_value(const char *kind, const struct word *w)
{
	const char *bracket = find_char(kind, '['), *s = w->value, *end = s + w->value_size, *comma;
	size_t size = bracket ? (size_t)(bracket - kind) : length(kind);
	u64 most = 1;

	if (streq(kind, "none"))
		return false; /* the kernel would jump to address 0 */
	if (!s)		      /* alone it is `on` for the first two, and the others refuse it (parse_one()) */
		return streq(kind, "bool") || streq(kind, "bint") || streq(kind, "own");
	if (!bracket)
		return takes_one(kind, size, s, w->value_size);
	bracket++;
	if (!take_number(&bracket, &most))
		return true;
	for (;; s = comma + 1) {
		for (comma = s; comma < end && *comma != ','; comma++)
			;
		if (!most-- || !takes_one(kind, size, s, (size_t)(comma - s)))
			return false;
		if (comma == end)
			return true;
	}
}

static bool is_called(const char *name, size_t size, const char *record)
{
	for (; size && *record != '='; size--, name++, record++)
		if ((*name == '-' ? '_' : *name) != (*record == '-' ? '_' : *record))
			return false;
	return !size && *record == '=';
}

const char *kind_of(const struct member *m, const char *name, size_t size)
{
	struct fields f = m->parameters;

	for (; f.count; f.count--, f.first = next_field(f.first))
		if (is_called(name, size, f.first))
			return find_char(f.first, '=') + 1;
	return NULL;
}
