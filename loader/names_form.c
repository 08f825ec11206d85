/* SPDX-License-Identifier: MIT
 *
 * See names_form.h. The patch's format stands in initramfs/megamod/prelink/names_form.py.
 */
#include "names_form.h"
#include "files.h"
#include "image_files.h"
#include "log.h"

enum { NOTES_ROOM = 4000, BUILD_ID_BYTES = 20 };

/* ---- this kernel's build ---- */

/* The head of a note with a build id: sizes of name and description, type, name (struct elf64_note). */
static const u32 build_id_note[4] = { 4, BUILD_ID_BYTES, 3, 'G' | 'N' << 8 | 'U' << 16 };

/* The only build id among the notes is the kernel's own: they are one section of it (kernel/ksysfs.c). */
static bool has_build_id(const char *notes, size_t size, const char *hex)
{
	char found[2 * BUILD_ID_BYTES + 1];
	size_t at;

	for (at = 0; at + sizeof(build_id_note) + BUILD_ID_BYTES <= size; at += 4)
		if (!memcmp(notes + at, build_id_note, sizeof(build_id_note))) {
			put_hex(found, (const u8 *)notes + at + sizeof(build_id_note), BUILD_ID_BYTES);
			return streq(found, hex);
		}
	return false;
}

bool fits_kernel(const struct boot *boot, const struct load *load)
{
	char notes[NOTES_ROOM];
	long size;

	if (!load->names.path)
		return true;
	size = read_small(boot->sys, "kernel/notes", notes, sizeof(notes));
	return size > 0 && has_build_id(notes, (size_t)size, boot->plan.build_id);
}

/* ---- the other form ---- */

struct head {
	char magic[8];
	u64 size, wanted;
	u32 tables, parts, imports, first;
};

struct piece { /* of the patch: what follows are the imports of *count* entries, or *count* bytes */
	u64 place, count;
};

struct entry { /* Elf64_Rela */
	u64 offset;
	u32 type, symbol;
	s64 addend;
};

static long read_whole(const char *path, long fd, struct unpacked *out)
{
	/* A negative one is refused by what comes next. */
	return ends_with(path, PACKED_ENDING) ? unpack_file((int)fd, out) : map_file((int)fd, out);
}

/* The next *size* bytes of the patch, padded; NULL if there are not so many. */
static const void *take(struct unpacked *patch, u64 size)
{
	const u8 *at = patch->data;

	size = (size + 7) & ~7ull;
	if (size > patch->size)
		return NULL;
	patch->data += size;
	patch->size -= (size_t)size;
	return at;
}

/* Puts the other form's words into *out*; false for a patch that is damaged. */
static bool apply(struct unpacked patch, const struct unpacked *out, const struct head *head)
{
	const s64 *away = take(&patch, 8ull * head->imports);
	const struct piece *piece;
	struct entry *entry;
	const u16 *import;
	u64 n, size;
	u32 i;

	for (i = 0; i < head->tables + head->parts; i++) {
		piece = take(&patch, sizeof(*piece));
		if (!piece || !away)
			return false;
		size = i < head->tables ? sizeof(*entry) : 1;
		import = take(&patch, i < head->tables ? 2 * piece->count : piece->count);
		if (!import || piece->place + size * piece->count > out->room)
			return false;
		entry = (void *)(out->data + piece->place);
		if (i >= head->tables)
			memcpy(entry, import, (size_t)piece->count);
		else
			for (n = 0; n < piece->count; n++, entry++)
				if (import[n] < head->imports) {
					entry->symbol = head->first + import[n];
					entry->addend -= away[import[n]];
				}
	}
	return true;
}

long make_names_form(const struct boot *boot, const struct load *load, int fd, struct unpacked *out)
{
	const struct head *head;
	struct unpacked patch, file;

	if (read_whole(load->names.path, open_image_file(boot, &load->names), &patch) < 0 ||
	    read_whole(load->file.path, fd, &file) < 0)
		return -EBADMSG;
	head = take(&patch, sizeof(*head));
	if (!head || head->size != file.size)
		return -EBADMSG;
	out->size = (size_t)head->wanted;
	out->room = (size_t)(head->wanted + head->size);
	out->data = sys_map(out->room);
	if (!out->data)
		return -ENOMEM;
	memcpy(out->data, file.data, file.size);
	return apply(patch, out, head) ? 0 : -EBADMSG;
}
