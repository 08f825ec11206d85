/* SPDX-License-Identifier: MIT
 *
 * See text.h. There is no `/` or `%` in the loader but by constant powers of two: on arm these would be calls into a
 * runtime library that is not linked, so the link itself checks this.
 */
#include "text.h"

size_t length(const char *s)
{
	const char *end = s;

	while (*end)
		end++;
	return (size_t)(end - s);
}

bool streq(const char *left, const char *right)
{
	while (*left && *left == *right) {
		left++;
		right++;
	}
	return *left == *right;
}

static char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

bool streq_nocase(const char *left, const char *right)
{
	while (*left && lower(*left) == lower(*right)) {
		left++;
		right++;
	}
	return lower(*left) == lower(*right);
}

bool same_module(const char *name, size_t size, const char *other)
{
	for (; size && *other; size--, name++, other++)
		if ((*name == '-' ? '_' : *name) != (*other == '-' ? '_' : *other))
			return false;
	return !size && !*other;
}

bool starts_with(const char *s, const char *prefix)
{
	while (*prefix)
		if (*s++ != *prefix++)
			return false;
	return true;
}

bool ends_with(const char *s, const char *ending)
{
	size_t size = length(s), end = length(ending);

	return size >= end && streq(s + size - end, ending);
}

const char *find_char(const char *s, char wanted)
{
	for (; *s; s++)
		if (*s == wanted)
			return s;
	return NULL;
}

bool take_number(const char **at, u64 *value)
{
	const char *s = *at;
	u64 n = 0;

	for (; *s >= '0' && *s <= '9'; s++) {
		if (n > 100000000000000000u) /* the next digit still fits into 64 bits */
			return false;
		n = n * 10 + (u64)(*s - '0');
	}
	if (s == *at)
		return false;
	*at = s;
	*value = n;
	return true;
}

u64 divide(u64 n, u32 d, u32 *rest)
{
	u64 quotient = 0, r = 0;
	int bit;

	for (bit = 0; bit < 64; bit++) {
		r = (r << 1) | (n >> 63);
		n <<= 1;
		quotient <<= 1;
		if (r >= d) {
			r -= d;
			quotient |= 1;
		}
	}
	if (rest)
		*rest = (u32)r;
	return quotient;
}

u16 le16(const u8 *at)
{
	return (u16)(at[0] | at[1] << 8);
}

u32 le32(const u8 *at)
{
	return (u32)le16(at) | (u32)le16(at + 2) << 16;
}

u64 le64(const u8 *at)
{
	return (u64)le32(at) | (u64)le32(at + 4) << 32;
}

void text_reset(struct text *t)
{
	t->used = 0;
	t->cut = false;
	t->data[0] = 0;
}

void text_add_bytes(struct text *t, const char *s, size_t size)
{
	if (size >= t->size - t->used) {
		size = t->size - t->used - 1;
		t->cut = true;
	}
	memcpy(t->data + t->used, s, size);
	t->used += size;
	t->data[t->used] = 0;
}

void text_add(struct text *t, const char *s)
{
	text_add_bytes(t, s, length(s));
}

static void add_number(struct text *t, u64 n)
{
	char digits[20];
	size_t at = sizeof(digits);
	u32 digit;

	do {
		n = divide(n, 10, &digit);
		digits[--at] = (char)('0' + digit);
	} while (n);
	text_add_bytes(t, digits + at, sizeof(digits) - at);
}

void text_format_list(struct text *t, const char *format, va_list list)
{
	const char *s;
	char c;
	int d;

	text_add(t, ""); /* terminated even if nothing follows */
	while (*format) {
		for (s = format; *s && *s != '%'; s++)
			;
		text_add_bytes(t, format, (size_t)(s - format));
		format = s;
		if (!*format)
			break;
		format++;
		switch (*format++) {
		case 's':
			text_add(t, va_arg(list, const char *));
			break;
		case 'd':
			d = va_arg(list, int);
			if (d < 0)
				text_add(t, "-");
			add_number(t, d < 0 ? (u64)-(s64)d : (u64)d);
			break;
		case 'u':
			add_number(t, va_arg(list, unsigned));
			break;
		case 'l': /* %llu */
			add_number(t, va_arg(list, unsigned long long));
			format += 2;
			break;
		case 'c':
			c = (char)va_arg(list, int);
			text_add_bytes(t, &c, 1);
			break;
		default:
			text_add(t, "%");
		}
	}
}

void text_format(struct text *t, const char *format, ...)
{
	va_list list;

	va_start(list, format);
	text_format_list(t, format, list);
	va_end(list);
}

static const char digits[] = "0123456789abcdef";

void put_hex(char *to, const u8 *bytes, size_t count)
{
	for (; count; count--, bytes++) {
		*to++ = digits[*bytes >> 4];
		*to++ = digits[*bytes & 15];
	}
	*to = 0;
}
