/* SPDX-License-Identifier: MIT
 *
 * Strings and numbers without libc: comparison, decimal numbers, a bounded text builder.
 */
#ifndef TEXT_H
#define TEXT_H

#include "sys.h"

/* A growing, always NUL-terminated text in a caller's buffer; `cut` tells that something did not fit. */
struct text {
	char *data;
	size_t size, used;
	bool cut;
};

#define TEXT(name, room)          \
	char name##_buffer[room]; \
	struct text name = { name##_buffer, (room), 0, false }

size_t length(const char *s);
bool streq(const char *left, const char *right);
/* Equal when upper and lower case are not told apart (UUIDs). */
bool streq_nocase(const char *left, const char *right);
/* Module names: '-' and '_' are equal. Compares `size` bytes of name with the whole of other. */
bool same_module(const char *name, size_t size, const char *other);
bool starts_with(const char *s, const char *prefix);
bool ends_with(const char *s, const char *ending);
/* The first `wanted` in s, or NULL. */
const char *find_char(const char *s, char wanted);

/* Reads decimal digits, moves *at behind them; false if there are none or the value does not fit. */
bool take_number(const char **at, u64 *value);
/* n / d and n % d; arm has no 64-bit division of its own. */
u64 divide(u64 n, u32 d, u32 *rest);

u16 le16(const u8 *at);
u32 le32(const u8 *at);
u64 le64(const u8 *at);

void text_reset(struct text *t);
void text_add_bytes(struct text *t, const char *s, size_t size);
void text_add(struct text *t, const char *s);
/* Takes %s, %d, %u, %llu, %c and %% only. */
void text_format(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_format_list(struct text *t, const char *format, va_list list);
/* Two digits a byte, and a NUL. */
void put_hex(char *to, const u8 *bytes, size_t count);

#endif
