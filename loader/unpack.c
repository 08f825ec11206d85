/* SPDX-License-Identifier: MIT
 *
 * See unpack.h. A block is sequences of literals and matches (lz4 1.9, doc/lz4_Block_format.md). No byte outside of the
 * two buffers is read or written, whatever the file says.
 */
#include "unpack.h"
#include "text.h"

enum { MAGIC = 0x184c2102, BLOCK = 8 << 20, MAX_BLOCKS = 64 };

/* A copy may read and write this much too far. */
enum { SLACK = 8 };

/* Eight bytes from anywhere to anywhere. */
struct eight {
	u64 value;
} __attribute__((packed, may_alias));

static inline __attribute__((always_inline)) void copy_eight(u8 *to, const u8 *from)
{
	*(struct eight *)to = *(const struct eight *)from;
}

static void copy(u8 *to, const u8 *from, size_t size)
{
	const u8 *end = to + size;

	for (; to < end; to += 8, from += 8)
		copy_eight(to, from);
}

/* The source may be what has just been written. */
static void copy_bytes(u8 *to, const u8 *from, size_t size)
{
	for (; size; size--)
		*to++ = *from++;
}

/* A length that begins with the four bits of a token; it goes on in bytes for as long as they are full. */
static bool take_length(const u8 **in, const u8 *end, size_t *length)
{
	u8 more = 255;

	if (*length < 15)
		return true;
	while (more == 255) {
		if (*in == end || *length > BLOCK)
			return false;
		more = *(*in)++;
		*length += more;
	}
	return true;
}

/* Returns the end of what has been written from start on, at most limit, or NULL for a damaged block. */
static u8 *unpack_block(const u8 *in, const u8 *end, u8 *start, const u8 *limit)
{
	u8 *out = start;
	size_t literals, length, distance;

	while (in < end) {
		literals = *in >> 4;
		length = *in++ & 15;
		/* Most sequences are short, and far from both ends: then nothing has to be looked at twice. */
		if (literals < 15 && end - in >= 32 && limit - out >= 64) {
			copy_eight(out, in);
			copy_eight(out + 8, in + 8);
		} else {
			if (!take_length(&in, end, &literals))
				return NULL;
			if (literals > (size_t)(end - in) || literals > (size_t)(limit - out))
				return NULL;
			if (literals + SLACK <= (size_t)(end - in))
				copy(out, in, literals);
			else
				copy_bytes(out, in, literals);
		}
		in += literals;
		out += literals;
		if (in == end)
			return out; /* the last sequence has literals only */
		if (end - in < 2)
			return NULL;
		distance = in[0] | (size_t)in[1] << 8;
		in += 2;
		if (!distance || distance > (size_t)(out - start))
			return NULL;
		if (length < 15 && distance >= SLACK && limit - out >= 32) {
			copy_eight(out, out - distance);
			copy_eight(out + 8, out - distance + 8);
			copy_eight(out + 16, out - distance + 16);
			out += length + 4;
			continue;
		}
		if (!take_length(&in, end, &length))
			return NULL;
		length += 4;
		if (length > (size_t)(limit - out))
			return NULL;
		if (distance >= SLACK)
			copy(out, out - distance, length);
		else
			copy_bytes(out, out - distance, length);
		out += length;
	}
	return NULL;
}

/* How many blocks the frame has; 0 if it is not one. */
static u32 count_blocks(const u8 *at, const u8 *end)
{
	u32 count = 0, size;

	if (end - at < 4 || le32(at) != MAGIC)
		return 0;
	for (at += 4; at < end; at += size, count++) {
		if (end - at < 4 || count == MAX_BLOCKS)
			return 0;
		size = le32(at);
		at += 4;
		if (size > (size_t)(end - at))
			return 0;
	}
	return count;
}

static long unpack(const u8 *at, size_t size, struct unpacked *out)
{
	const u8 *end = at + size;
	u32 blocks = count_blocks(at, end);
	u8 *to;

	if (!blocks)
		return -EBADMSG;
	/* The pages that are not reached take no memory. */
	out->room = (size_t)blocks * BLOCK + SLACK;
	out->data = sys_map(out->room);
	if (!out->data)
		return -ENOMEM;
	to = out->data;
	for (at += 4; to && at < end; at += 4 + le32(at)) {
		/* Only the last block may be shorter. */
		if ((size_t)(to - out->data) % BLOCK)
			to = NULL;
		else
			to = unpack_block(at + 4, at + 4 + le32(at), to, to + BLOCK);
	}
	if (!to) {
		free_unpacked(out);
		return -EBADMSG;
	}
	out->size = (size_t)(to - out->data);
	return 0;
}

long map_file(int fd, struct unpacked *out)
{
	struct statx st;
	long err = sys_statx(fd, "", AT_EMPTY_PATH, &st);

	if (err < 0)
		return err;
	if (!st.size)
		return -EBADMSG;
	out->size = (size_t)st.size;
	out->data = sys_map_file(fd, out->size);
	return out->data ? 0 : -ENOMEM;
}

long unpack_file(int fd, struct unpacked *out)
{
	struct unpacked in;
	long err = map_file(fd, &in);

	if (err < 0)
		return err;
	/* Blocks are compressed to at most 8 MiB and a little; a size that does not fit in memory is not an image's. */
	err = in.size > (u64)MAX_BLOCKS * (BLOCK + (BLOCK >> 7)) ? -EBADMSG : unpack(in.data, in.size, out);
	sys_unmap(in.data, in.size);
	return err;
}

void free_unpacked(struct unpacked *out)
{
	sys_unmap(out->data, out->room);
}
