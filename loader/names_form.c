/* SPDX-License-Identifier: MIT
 *
 * See names_form.h. The patch's format stands in initramfs/megamod/prelink/names_form.py.
 */
#include "names_form.h"
#include "files.h"
#include "image_files.h"
#include "log.h"
#include "unpack.h"

enum { NOTES_ROOM = 8192, NOTE_BUILD_ID = 3, BUILD_ID_BYTES = 20, STAYS = 0xffff, MAX_FILE = 1 << 30 };

/* ---- this kernel's build ---- */

struct note { /* Elf64_Nhdr; name and description follow, each padded to 4 bytes */
	u32 name, description, type;
};

static size_t padded(size_t size, size_t to)
{
	return (size + to - 1) & ~(to - 1);
}

static bool same_hex(const u8 *bytes, const char *hex)
{
	static const char digits[] = "0123456789abcdef";
	u32 i;

	for (i = 0; i < BUILD_ID_BYTES; i++)
		if (hex[2 * i] != digits[bytes[i] >> 4] || hex[2 * i + 1] != digits[bytes[i] & 15])
			return false;
	return !hex[2 * i];
}

/* The first build id among the notes is the kernel's own: there is one section of them (kernel/ksysfs.c). */
static bool has_build_id(const char *notes, size_t size, const char *hex)
{
	size_t at = 0, name, end;
	struct note note;

	while (at + sizeof(note) <= size) {
		memcpy(&note, notes + at, sizeof(note));
		name = at + sizeof(note);
		if (note.name > size || note.description > size)
			return false;
		end = name + padded(note.name, 4) + padded(note.description, 4);
		if (end > size)
			return false;
		if (note.type == NOTE_BUILD_ID && note.description == BUILD_ID_BYTES && note.name == 4 &&
		    streq(notes + name, "GNU"))
			return same_hex((const u8 *)notes + name + 4, hex);
		at = end;
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
	return size > 0 && boot->plan.build_id && has_build_id(notes, (size_t)size, boot->plan.build_id);
}

/* ---- the other form ---- */

struct head {
	char magic[8];
	u64 size, wanted;
	u32 tables, parts, imports, first;
};

struct table {
	u64 place;
	u32 entries, zero;
};

struct part {
	u64 place, length;
};

struct entry { /* Elf64_Rela */
	u64 offset;
	u32 type, symbol;
	s64 addend;
};

struct bytes {
	u8 *at;
	size_t size;
};

static bool fill(int fd, struct unpacked *out)
{
	struct statx status;
	long got = 0;
	size_t n;

	if (sys_statx(fd, "", AT_EMPTY_PATH, &status) < 0 || status.size >= MAX_FILE)
		return false;
	out->size = (size_t)status.size;
	out->room = out->size + 1;
	out->data = sys_map(out->room);
	for (n = 0; out->data && n < out->size; n += (size_t)got) {
		got = sys_pread(fd, out->data + n, out->size - n, n);
		if (got == -EINTR)
			got = 0;
		else if (got <= 0)
			return false;
	}
	return out->data != NULL;
}

/* The whole file, unpacked if it is packed. Memory is not given back: it is one file, in a boot
 * that is not as planned. */
static bool read_whole(const struct boot *boot, const struct image_file *file, struct unpacked *out)
{
	long fd = open_image_file(boot, file);
	bool good;

	if (fd < 0)
		return false;
	good = ends_with(file->path, PACKED_ENDING) ? unpack_file((int)fd, out) >= 0 : fill((int)fd, out);
	if (file->fd < 0)
		sys_close((int)fd);
	return good;
}

/* The next *size* bytes of the patch, NULL if there are not so many. */
static const u8 *take(struct bytes *patch, u64 size)
{
	const u8 *at = patch->at;

	size = (size + 7) & ~7ull;
	if (size > patch->size)
		return NULL;
	patch->at += size;
	patch->size -= (size_t)size;
	return at;
}

static bool apply_table(struct bytes *patch, u8 *out, const struct head *head, const s64 *away)
{
	const struct table *t = (const void *)patch->at;
	struct entry *entry;
	const u16 *import;
	u32 i;

	if (patch->size < sizeof(*t) || !take(patch, sizeof(*t) + 2ull * t->entries))
		return false;
	if (t->place % 8 || t->place > head->size || t->entries > (head->size - t->place) / sizeof(*entry))
		return false;
	import = (const void *)(t + 1);
	entry = (void *)(out + t->place);
	for (i = 0; i < t->entries; i++, entry++) {
		if (import[i] == STAYS)
			continue;
		if (import[i] >= head->imports)
			return false;
		entry->symbol = head->first + import[i];
		entry->addend -= away[import[i]];
	}
	return true;
}

static bool apply_part(struct bytes *patch, u8 *out, const struct head *head)
{
	const struct part *p = (const void *)patch->at;

	if (patch->size < sizeof(*p) || p->length > MAX_FILE || !take(patch, sizeof(*p) + p->length))
		return false;
	if (p->place > head->wanted || p->length > head->wanted - p->place)
		return false;
	memcpy(out + p->place, p + 1, (size_t)p->length);
	return true;
}

static bool apply(struct bytes patch, struct bytes file, const struct head *head)
{
	const s64 *away;
	u32 i;

	take(&patch, sizeof(*head));
	away = (const void *)take(&patch, 8ull * head->imports);
	if (!away || head->size != file.size)
		return false;
	for (i = 0; i < head->tables; i++)
		if (!apply_table(&patch, file.at, head, away))
			return false;
	for (i = 0; i < head->parts; i++)
		if (!apply_part(&patch, file.at, head))
			return false;
	return true;
}

long load_names_form(const struct boot *boot, const struct load *load, const char *arguments)
{
	const struct head *head;
	struct unpacked patch, whole;
	struct bytes rest, file;

	if (!read_whole(boot, &load->names, &patch) || !read_whole(boot, &load->file, &whole))
		return -EBADMSG;
	head = (const void *)patch.data;
	if (patch.size < sizeof(*head) || memcmp(head->magic, "MMNAMES1", 8) || head->wanted >= MAX_FILE)
		return -EBADMSG;
	file.size = whole.size;
	file.at = sys_map((size_t)(head->wanted > whole.size ? head->wanted : whole.size) + 1);
	if (!file.at)
		return -ENOMEM;
	memcpy(file.at, whole.data, whole.size);
	free_unpacked(&whole);
	rest.at = patch.data;
	rest.size = patch.size;
	return apply(rest, file, head) ? sys_init_module(file.at, (size_t)head->wanted, arguments) : -EBADMSG;
}
