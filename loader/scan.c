/* SPDX-License-Identifier: MIT
 *
 * See scan.h. A disk that is about to die answers a read after minutes, or never, and a process
 * that waits for it cannot even be killed: so where there are several disks, each is read by a child, which writes what
 * it found into a pipe. One disk alone is read here: there is nothing to protect.
 */
#include "scan.h"
#include "files.h"
#include "log.h"

enum { MAX_DISKS = 64, PATIENCE_MILLISECONDS = 2000 };

struct scan {
	const struct boot *boot;
	enum by by;
	const char *value;
	struct matches *found;
	int pipe; /* of a child: where answers go; -1: into `found` */
	const char *disk;
	u32 disks;
};

/* From a child: a match, or without a name the end of its disk. */
struct answer {
	u32 disk; /* into busy[] */
	struct match match;
};

_Static_assert(sizeof(struct answer) < 4096, "what is written to a pipe in one piece: PIPE_BUF");

static struct {
	char disk[NAME_ROOM];
	long child;    /* 0: not in use */
	bool given_up; /* no scan waits for it; its answer is taken all the same when it comes */
} busy[MAX_DISKS];

static u32 slot; /* of a child: its own in busy[] */
static int pipes[2];

static bool is_wanted(const struct scan *s, const struct superblock *found)
{
	if (s->by == BY_LABEL)
		return found->label[0] && streq(found->label, s->value);
	if (s->by == BY_UUID)
		return streq_nocase(found->uuid, s->value) || streq_nocase(found->member_uuid, s->value);
	return found->name || found->member;
}

static void answer(const struct scan *s, const struct match *m)
{
	struct answer a;

	if (s->pipe < 0) {
		if (s->found->count < MAX_MATCHES)
			s->found->list[s->found->count++] = *m;
		return;
	}
	a.disk = slot;
	a.match = *m;
	sys_write(s->pipe, &a, sizeof(a));
}

static void look_at(const struct scan *s, const char *name)
{
	struct match m;
	u64 size;
	long fd = open_device(s->boot, name, &size), err;

	if (fd < 0)
		return;
	err = read_superblock((int)fd, size, &m.superblock);
	sys_close((int)fd);
	if (err < 0)
		log_debug("%s cannot be read: %s", name, errno_name(err));
	/* The end of a device is read only where that can change the answer. */
	if (err < 0 || !is_wanted(s, &m.superblock) || identify_device(s->boot, name, &m.superblock) < 0)
		return;
	copy_name(m.name, name);
	copy_name(m.disk, s->disk);
	answer(s, &m);
}

static bool visit_partition(void *context, int folder, const char *name, u8 type)
{
	const struct scan *s = context;
	TEXT(path, 128);

	(void)type;
	text_format(&path, "%s/partition", name);
	if (sys_faccessat(folder, path.data, 0) >= 0)
		look_at(s, name);
	return false;
}

static void look_at_disk(struct scan *s, const char *disk)
{
	TEXT(path, 128);

	s->disk = disk;
	look_at(s, disk);
	text_format(&path, "class/block/%s/.", disk);
	walk_folder(s->boot->sys, path.data, visit_partition, s);
}

_Noreturn static void become_child(struct scan *s, const char *disk)
{
	struct match end;

	sys_close(s->boot->alive); /* or the keeper would wait for us too */
	s->pipe = pipes[1];
	look_at_disk(s, disk);
	memset(&end, 0, sizeof(end));
	answer(s, &end);
	sys_exit(0);
}

/* Has a disk a child that has not answered yet? Else the number of a free place, or -1. */
static long find_slot(const char *disk)
{
	long i, free = -1;

	for (i = MAX_DISKS - 1; i >= 0; i--) {
		if (!busy[i].child)
			free = i;
		else if (streq(busy[i].disk, disk))
			return -EBUSY;
	}
	return free;
}

static void start_child(struct scan *s, const char *disk)
{
	long free = find_slot(disk);

	if (free == -EBUSY)
		return;
	if (free < 0 || (!pipes[1] && sys_pipe(pipes) < 0)) {
		look_at_disk(s, disk);
		return;
	}
	slot = (u32)free;
	copy_name(busy[free].disk, disk);
	busy[free].given_up = false;
	busy[free].child = sys_fork();
	if (!busy[free].child)
		become_child(s, disk);
	if (busy[free].child > 0)
		return;
	busy[free].child = 0;
	look_at_disk(s, disk);
}

/* Disks that hold anything; their partitions come with them. */
static bool is_disk(int folder, const char *name)
{
	TEXT(path, 128);
	char size[16];

	text_format(&path, "%s/partition", name);
	if (sys_faccessat(folder, path.data, 0) >= 0)
		return false;
	text_reset(&path);
	text_format(&path, "%s/size", name);
	return read_small(folder, path.data, size, sizeof(size)) <= 0 || size[0] != '0';
}

static bool count_disk(void *context, int folder, const char *name, u8 type)
{
	struct scan *s = context;

	(void)type;
	s->disks += is_disk(folder, name);
	return false;
}

static bool visit_disk(void *context, int folder, const char *name, u8 type)
{
	struct scan *s = context;

	(void)type;
	if (!is_disk(folder, name))
		return false;
	if (s->disks > 1)
		start_child(s, name);
	else
		look_at_disk(s, name);
	return false;
}

/* Takes one answer; false if there is none within the time. */
static bool take_answer(struct scan *s, u64 until)
{
	struct pollfd poll = { .fd = pipes[0], .events = POLLIN };
	struct timespec64 left = { 0, 0 };
	struct answer a;
	u32 rest;
	u64 t = monotonic_ns();

	if (t < until) {
		left.sec = (s64)divide(until - t, 1000000000, &rest);
		left.nsec = rest;
	}
	if (sys_ppoll(&poll, 1, &left) != 1 || sys_read(pipes[0], &a, sizeof(a)) != sizeof(a) || a.disk >= MAX_DISKS)
		return false;
	if (a.match.name[0]) {
		if (s->found->count < MAX_MATCHES)
			s->found->list[s->found->count++] = a.match;
		return true;
	}
	if (busy[a.disk].child > 0)
		sys_wait(busy[a.disk].child, NULL, 0);
	busy[a.disk].child = 0;
	return true;
}

/* Is there a disk that the scan still waits for? */
static bool is_waiting(void)
{
	u32 i;

	for (i = 0; i < MAX_DISKS; i++)
		if (busy[i].child > 0 && !busy[i].given_up)
			return true;
	return false;
}

bool scan_is_open(void)
{
	u32 i;

	for (i = 0; i < MAX_DISKS; i++)
		if (busy[i].child > 0)
			return true;
	return false;
}

static void give_up(void)
{
	u32 i;

	for (i = 0; i < MAX_DISKS; i++)
		if (busy[i].child > 0 && !busy[i].given_up) {
			log_warning("%s does not answer; continuing without it", busy[i].disk);
			busy[i].given_up = true;
		}
}

void scan_contents(const struct boot *boot, enum by by, const char *value, struct matches *found)
{
	struct scan s = { .boot = boot, .by = by, .value = value, .found = found, .pipe = -1 };
	u64 until = monotonic_ns() + PATIENCE_MILLISECONDS * 1000000ull;

	found->count = 0;
	walk_folder(boot->sys, "class/block", count_disk, &s);
	walk_folder(boot->sys, "class/block", visit_disk, &s);
	while (is_waiting() && take_answer(&s, until))
		;
	give_up();
	while (scan_is_open() && take_answer(&s, 0)) /* of those that an earlier scan has given up */
		;
}
