/* SPDX-License-Identifier: MIT
 *
 * With megamod.times on the command line: lines for `megamod chart`, with what no other line has. The members' own
 * times, and how much time the processors have been in use, so that waits can be told from work.
 */
#include "times.h"
#include "files.h"
#include "log.h"
#include "results.h"

enum {
	TIMES = 128, /* members in one `nanoseconds` parameter */
	LINE = 800,  /* a line of the kernel's log takes little more */
	FILE_ROOM = 16384,
	BUSY = 7, /* which number of a processor's line */
};

static void take_time(struct member *m, s64 nanoseconds)
{
	m->nanoseconds = (u64)nanoseconds;
}

void read_times(struct boot *boot, const struct load *load)
{
	if (load->method == METHOD_OWN && load->merged && load->results && !load->error && load->nanoseconds)
		read_array(boot, load, "nanoseconds", TIMES, take_time);
}

/*
 * Nanoseconds in which tasks ran, of all processors: rq_cpu_time, the seventh number of a line `cpuN …`
 * (show_schedstat, kernel/sched/stats.c, 5.10 to 7.2). Needs CONFIG_SCHEDSTATS.
 */
static bool busy_time(const struct boot *boot, u64 *busy)
{
	static char data[FILE_ROOM];
	const char *s = data;
	u64 number;
	u32 i;

	*busy = 0;
	if (read_small(boot->proc, "schedstat", data, sizeof(data)) <= 0)
		return false;
	for (; *s; s += *s == '\n') {
		if (starts_with(s, "cpu")) {
			for (i = 0, s += 3; take_number(&s, &number); s += *s == ' ')
				*busy += i++ == BUSY ? number : 0;
		}
		while (*s && *s != '\n')
			s++;
	}
	return true;
}

void log_cpu_time(const struct boot *boot)
{
	struct timespec64 moment = { 0, 1 };
	u64 busy;

	if (!boot->options.times)
		return;
	/* A task's time is added when it leaves the processor (sched_info_depart, kernel/sched/stats.h, 6.1). */
	sys_ppoll(NULL, 0, &moment);
	if (busy_time(boot, &busy))
		log_info("used %llu ns", (unsigned long long)busy);
}

void log_init_times(struct boot *boot, const struct load *load)
{
	const struct member *m = members_of(boot, load), *end = m + load->member_count;
	TEXT(line, LINE + 128);

	if (!boot->options.times)
		return;
	if (load->merged && load->method == METHOD_OWN && !load->error) {
		read_times(boot, load);
		for (; m < end; m++) {
			text_format(&line, " %s=%llu", m->name, (unsigned long long)m->nanoseconds);
			if (line.used < LINE && m + 1 < end)
				continue;
			log_info("inits %s%s", load->name, line.data);
			text_reset(&line);
		}
	}
	log_cpu_time(boot);
}
