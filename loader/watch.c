/* SPDX-License-Identifier: MIT
 *
 * What the keeper looks at: paths, by inotify, and /proc/stat. See watch.h.
 *
 * Paths are looked up from PID 1's root, entered through the handle on /proc, and from whatever is mounted over it
 * (`/..` at a root follows mounts: follow_dotdot and step_into, fs/namei.c, 6.1), because a generator's init moves the
 * real root there only later. A change of the mounts is an event too (mounts_poll, fs/proc_namespace.c, 6.1).
 */
#include "watch.h"
#include "files.h"
#include "log.h"

enum { PATH_ROOM = 4096 };

/* Stages may share a watch, as it belongs to a folder: the last one takes it away. */
static void drop_watch(struct watches *w, struct stage *s)
{
	const struct stage *other;
	int watch = s->watch;

	s->watch = -1;
	for (other = first_deferred(w->boot); other < end_of_stages(w->boot); other++)
		if (other->watch == watch)
			return;
	if (watch >= 0)
		sys_inotify_rm_watch(w->inotify, watch);
}

void fire(struct watches *w, struct stage *s, enum trigger by)
{
	s->fired = by;
	drop_watch(w, s);
}

/*
 * Idle: in the time that the profile names, at least nine tenths of the processors' ticks were idle ones. Waiting for a
 * disk does not count as idle: that is what a busy boot does. False too if /proc/stat cannot be read.
 */
bool was_idle(const struct boot *boot, struct stage *s)
{
	char line[256];
	const char *at = line;
	u64 n, idle = 0, total = 0, idle_before = s->idle, total_before = s->total;
	long err = read_small(boot->proc, "stat", line, sizeof(line));
	u32 i;

	if (err < 0 && err != -E2BIG)
		return false;
	while (*at == 'c' || *at == 'p' || *at == 'u' || *at == ' ')
		at++;
	for (i = 0; i < 8 && take_number(&at, &n); i++) { /* user nice system idle iowait irq softirq steal */
		total += n;
		if (i == 3)
			idle = n;
		at += *at == ' ';
	}
	s->idle = idle;
	s->total = total;
	return total > total_before && (idle - idle_before) * 10 >= (total - total_before) * 9;
}

/* Follows PID 1 to where its root is now. */
static void enter_root(const struct boot *boot)
{
	if (sys_fchdir(boot->proc) < 0 || sys_chroot("1/root") < 0 || sys_chroot("/..") < 0 || sys_chdir("/") < 0)
		log_debug("the keeper stays in the initramfs");
}

static bool exists(const char *path)
{
	struct statx st;

	return sys_statx(AT_FDCWD, path, 0, &st) >= 0;
}

/* Cuts the last component off; false if there is none. */
static bool go_up(char *path)
{
	size_t n = length(path);

	while (n > 1 && path[n - 1] != '/')
		n--;
	while (n > 1 && path[n - 1] == '/')
		n--;
	if (n == length(path))
		return false;
	path[n] = 0;
	return true;
}

/* Watches the deepest existing folder above the stage's path; returns its watch, or a negative errno. */
static long watch_above(struct watches *w, const struct stage *s)
{
	static char path[PATH_ROOM];
	struct text t = { path, sizeof(path), 0, false };
	long watch = -ENAMETOOLONG;

	text_reset(&t);
	text_add(&t, s->path);
	while (!t.cut && go_up(path)) {
		watch = sys_inotify_add_watch(w->inotify, path,
					      IN_CREATE | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR);
		if (watch != -ENOENT && watch != -ENOTDIR)
			break;
	}
	return watch;
}

/*
 * Looks for the path, and watches for it if it is not there. What comes into being between the two is found by the
 * second round: it ends only when a round has neither found the path nor moved the watch.
 */
static void look_for_path(struct watches *w, struct stage *s)
{
	long watch;

	for (;;) {
		if (exists(s->path)) {
			fire(w, s, TRIGGER_PATH);
			return;
		}
		watch = watch_above(w, s);
		if (watch == s->watch)
			return;
		drop_watch(w, s);
		s->watch = (int)watch;
		if (watch < 0) {
			log_debug("stage %s: nothing to watch: %s", s->name, errno_name(watch));
			return;
		}
	}
}

void look_for_paths(struct watches *w)
{
	struct stage *s;

	enter_root(w->boot);
	for (s = first_deferred(w->boot); s < end_of_stages(w->boot); s++)
		if (is_pending(s) && s->trigger == TRIGGER_PATH)
			look_for_path(w, s);
}

bool must_look(const struct watches *w)
{
	const struct stage *s;

	if (w->inotify >= 0 && w->mounts >= 0)
		return false;
	for (s = first_deferred(w->boot); s < end_of_stages(w->boot); s++)
		if (is_pending(s) && s->trigger == TRIGGER_PATH)
			return true;
	return false;
}

void open_watches(struct watches *w)
{
	const struct stage *s = first_deferred(w->boot);

	w->inotify = w->mounts = -1;
	while (s < end_of_stages(w->boot) && s->trigger != TRIGGER_PATH)
		s++;
	if (s == end_of_stages(w->boot))
		return;
	w->inotify = (int)sys_inotify_init();
	w->mounts = (int)sys_openat(w->boot->proc, "1/mountinfo", O_RDONLY, 0);
	if (w->inotify < 0 || w->mounts < 0)
		log_warning("paths cannot be watched (%s): checking once a second",
			    errno_name(w->inotify < 0 ? w->inotify : w->mounts));
}
