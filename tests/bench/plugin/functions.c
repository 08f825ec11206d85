/*
 * functions.c: a QEMU plugin that counts the guest's executed instructions by address, between two points.
 *
 *   -plugin file=functions.so,begin=0x…,end=0x…,leave=0x…,return=0x…,limit=0x…,out=FILE
 *
 * Counts from the instruction at `begin` to that at `end`. In between the count stops when `leave` is executed and goes
 * on with the first instruction in [return, limit): so what a function called from there does is left out, however it
 * comes back. Each translation block has a counter; FILE gets a line "ADDRESS INSTRUCTIONS TIMES" for each that ran.
 * One processor only. A block that an exception ends early counts whole, which is a page fault's worth of instructions.
 *
 * What is used of the plugin interface (include/qemu/qemu-plugin.h, tried with QEMU 7.2) is declared here, for
 * distributions do not package the header. API_VERSION is given by the caller.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PUBLIC __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;

enum { QEMU_PLUGIN_CB_NO_REGS };

typedef void (*translated_cb)(qemu_plugin_id_t id, struct qemu_plugin_tb *block);
typedef void (*executed_cb)(unsigned int processor, void *data);
typedef void (*exit_cb)(qemu_plugin_id_t id, void *data);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, translated_cb callback);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, executed_cb callback, int flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn, executed_cb callback, int flags, void *data);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, exit_cb callback, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);

PUBLIC int qemu_plugin_version = API_VERSION;

struct block {
	struct block *next;
	uint64_t address;
	size_t instructions;
	uint64_t times;
};

static struct block *blocks;
static uint64_t begin, end, leave, back, limit;
static const char *out;
static bool measuring, away;

static void block_executed(unsigned int processor, void *data)
{
	struct block *block = data;

	if (measuring && !away)
		block->times++;
}

static void at_begin(unsigned int processor, void *data)
{
	measuring = true;
}

static void at_end(unsigned int processor, void *data)
{
	measuring = false;
}

static void at_leave(unsigned int processor, void *data)
{
	away = measuring;
}

static void at_return(unsigned int processor, void *data)
{
	away = false;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	struct block *block = calloc(1, sizeof(*block));

	if (!block)
		abort();
	block->address = qemu_plugin_tb_vaddr(tb);
	block->instructions = qemu_plugin_tb_n_insns(tb);
	block->next = blocks;
	blocks = block;
	/* A block is counted before the switches in it are seen, so the return must be known at the block's start. */
	if (block->address >= back && block->address < limit)
		qemu_plugin_register_vcpu_tb_exec_cb(tb, at_return, QEMU_PLUGIN_CB_NO_REGS, NULL);
	qemu_plugin_register_vcpu_tb_exec_cb(tb, block_executed, QEMU_PLUGIN_CB_NO_REGS, block);
	for (size_t i = 0; i < block->instructions; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uint64_t address = qemu_plugin_insn_vaddr(insn);

		if (address == begin)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, at_begin, QEMU_PLUGIN_CB_NO_REGS, NULL);
		if (address == end)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, at_end, QEMU_PLUGIN_CB_NO_REGS, NULL);
		if (address == leave)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, at_leave, QEMU_PLUGIN_CB_NO_REGS, NULL);
	}
}

static void finished(qemu_plugin_id_t id, void *data)
{
	FILE *file = fopen(out, "w");

	if (!file)
		return;
	for (struct block *block = blocks; block; block = block->next)
		if (block->times)
			fprintf(file, "%" PRIx64 " %zu %" PRIu64 "\n", block->address, block->instructions,
				block->times);
	fclose(file);
}

PUBLIC int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int count, char **arguments)
{
	static const struct {
		const char *name;
		uint64_t *value;
	} numbers[] = {
		{ "begin=", &begin }, { "end=", &end },	    { "leave=", &leave },
		{ "return=", &back }, { "limit=", &limit },
	};

	for (int i = 0; i < count; i++) {
		if (!strncmp(arguments[i], "out=", 4))
			out = strdup(arguments[i] + 4);
		for (size_t n = 0; n < sizeof(numbers) / sizeof(numbers[0]); n++)
			if (!strncmp(arguments[i], numbers[n].name, strlen(numbers[n].name)))
				*numbers[n].value = strtoull(arguments[i] + strlen(numbers[n].name), NULL, 0);
	}
	if (!out || !begin || !end)
		return 1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	qemu_plugin_register_atexit_cb(id, finished, NULL);
	return 0;
}
