/* SPDX-License-Identifier: MIT
 *
 * Files that stay packed in the image until their stage comes: the kernel does not unpack them before user space.
 */
#ifndef UNPACK_H
#define UNPACK_H

#include "sys.h"

/* What ends the name of a packed file. */
#define PACKED_ENDING ".lz4"

struct unpacked {
	u8 *data;
	size_t size, room;
};

/*
 * Unpacks the open file: a legacy frame, as `lz4 -l` and megamod build write it (lz4 1.9, doc/lz4_Frame_format.md,
 * "Legacy frame"). Returns 0 with memory for free_unpacked(), or a negative errno; -EBADMSG for a damaged file.
 */
long unpack_file(int fd, struct unpacked *out);
/* The open file as it is, to be read; 0 or a negative errno. */
long map_file(int fd, struct unpacked *out);
void free_unpacked(struct unpacked *out);

#endif
