/* SPDX-License-Identifier: MIT
 *
 * Whole small files, and walking through a folder. Names are relative to a handle on a folder.
 */
#ifndef FILES_H
#define FILES_H

#include "text.h"

/* Reads a small file whole and terminates it with NUL; returns its length, or a negative errno (-E2BIG: no room). */
long read_small(int at, const char *path, char *data, size_t size);
/* Writes everything, or returns a negative errno. */
long write_all(int fd, const char *data, size_t size);
/* Replaces a file below the handle whole: makes `folder`, writes `folder/name`, by way of a temporary file. */
long replace_file(int at, const char *folder, const char *name, const char *data, size_t size);

/* Called for each entry but `.` and `..`, with a handle on the folder; a true answer ends the walk. */
typedef bool visit(void *context, int folder, const char *name, u8 type);

/* 1 if a visit ended the walk, 0 if none did, or a negative errno. Entries may be removed while the walk goes on:
 * tmpfs, ramfs, sysfs and disk file systems keep their place, or may show one less. */
long walk_folder(int at, const char *path, visit *each, void *context);

/* Removes what is in a folder, but for an entry called `spared` (or NULL), and nothing of another file system. */
void empty_folder(int at, const char *path, const char *spared);

#endif
