/* SPDX-License-Identifier: MIT
 *
 * Walking through a folder.
 */
#ifndef FOLDER_H
#define FOLDER_H

#include "text.h"

/* Called for each entry but `.` and `..`, with a handle on the folder; a true answer ends the walk. */
typedef bool visit(void *context, int folder, const char *name, u8 type);

/* 1 if a visit ended the walk, 0 if none did, or a negative errno. */
long walk(int at, const char *path, visit *each, void *context);

#endif
