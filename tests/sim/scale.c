/*
 * The scale model: the authority alone, with as many hosts and leases as asked for. Prints what a
 * lease costs in memory, and what recalls and renewals cost in time. Not a test: it asserts no
 * figure.
 */
#include "tests/sim/sim.h"

#include <inttypes.h>
#include <malloc.h>
#include <stdlib.h>
#include <time.h>

static uint64_t bytes_in_use, blocks_in_use;

static void *counting_resize(void *context, void *pointer, size_t old_size, size_t size)
{
	void *block;

	(void)context;
	if (!size) {
		if (pointer) {
			bytes_in_use -= malloc_usable_size(pointer) + sizeof(size_t);
			blocks_in_use--;
		}
		free(pointer);
		return NULL;
	}
	if (pointer)
		bytes_in_use -= malloc_usable_size(pointer) + sizeof(size_t);
	else
		blocks_in_use++;
	block = realloc(pointer, size);
	if (block)
		bytes_in_use += malloc_usable_size(block) + sizeof(size_t);
	return block;
}

static double seconds_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static struct handle scale_handle(uint64_t inode)
{
	struct handle handle = { .length = 21 }; /* as of ext4 (fs/origin/handle.h) */

	memcpy(handle.bytes, &inode, sizeof(inode));
	return handle;
}

struct scale {
	struct authority *authority;
	struct authority_actions actions;
	struct session_id *sessions;
	uint32_t host_count;
	uint64_t hosts_per_inode;
	struct instant now;
};

static int open_sessions(struct scale *s)
{
	for (uint32_t i = 0; i <= s->host_count; i++) {
		uint8_t host[16] = { 0 };
		uint32_t slots;
		bool reclaim;

		memcpy(host, &i, sizeof(i));
		if (authority_session_open(s->authority, s->now, host, i + 1,
					   (struct session_id){ 0 }, 16, &s->actions,
					   &s->sessions[i], &slots, &reclaim) != STATUS_OK)
			return -1;
		s->actions.count = 0;
	}
	return 0;
}

/* Every host holds the first inode; the rest are spread, some hosts an inode. */
static uint64_t grant_leases(struct scale *s, uint64_t leases)
{
	uint64_t granted = 0, sequence;

	for (uint64_t i = 0; i < leases; i++) {
		uint64_t inode = i < s->host_count ? 0 : 1 + i / s->hosts_per_inode;
		struct handle handle = scale_handle(inode);

		granted += authority_grant(s->authority, s->now, s->sessions[i % s->host_count],
					   &handle, 0, &s->actions, &sequence) != LEASE_NONE;
		s->actions.count = 0;
	}
	return granted;
}

/*
 * A lease on each inode for one more session: what that takes is the cost of leases alone, the rest is
 * that of inodes.
 */
static void report_parts(struct scale *s, uint64_t leases, uint64_t granted, uint64_t bytes)
{
	uint64_t inodes = leases / s->hosts_per_inode, before = bytes_in_use, sequence;
	double a_lease;

	for (uint64_t inode = 1; inode <= inodes; inode++) {
		struct handle handle = scale_handle(inode);

		(void)authority_grant(s->authority, s->now, s->sessions[s->host_count], &handle, 0,
				      &s->actions, &sequence);
		s->actions.count = 0;
	}
	if (!inodes)
		return;
	a_lease = (double)(bytes_in_use - before) / (double)inodes;
	printf("alone: %.1f bytes a lease, %.1f bytes an inode\n", a_lease,
	       ((double)bytes - a_lease * (double)granted) / (double)inodes);
}

/* A modification of `inode`: recalls to all its holders, their acknowledgements, the run. */
static uint64_t modify(struct scale *s, uint64_t id, uint64_t inode)
{
	struct authority_op op = { .id = id, .kind = AUTHORITY_MODIFY, .target_count = 1 };
	struct authority_actions done = { .allocator = s->actions.allocator };
	uint64_t recalls = 0;

	op.deadline = instant_add(s->now, duration_ms(1000000));
	op.targets[0].handle = scale_handle(inode);
	op.targets[0].scope = RECALL_ALL;
	s->actions.count = 0;
	if (authority_begin(s->authority, s->now, &op, &s->actions))
		return 0;
	for (size_t i = 0; i < s->actions.count; i++) {
		const struct authority_action *action = &s->actions.items[i];

		if (action->kind != AUTHORITY_SEND_RECALL)
			continue;
		recalls++;
		(void)authority_acknowledge(s->authority, s->now, action->session,
					    action->recall_sequence, false, false, &done);
	}
	authority_finish(s->authority, s->now, id, false, &done);
	authority_actions_finish(&done);
	s->actions.count = 0;
	return recalls;
}

static void report_recalls(struct scale *s, uint64_t leases)
{
	double start = seconds_now();
	uint64_t recalls = modify(s, 1, 0), modifications = 0;
	double seconds = seconds_now() - start;

	printf("one modification, %" PRIu64 " recalls: %.1f us, %.0f ns a recall\n", recalls,
	       seconds * 1e6, seconds * 1e9 / (double)(recalls ? recalls : 1));
	start = seconds_now();
	for (recalls = 0; modifications < 10000 && modifications < leases / 16; modifications++)
		recalls += modify(s, 2 + modifications, leases / 16 - modifications);
	seconds = seconds_now() - start;
	printf("%" PRIu64 " modifications of inodes with few leases, %" PRIu64
	       " recalls: %.0f ns a recall\n", modifications, recalls,
	       seconds * 1e9 / (double)(recalls ? recalls : 1));
	start = seconds_now();
	for (uint32_t i = 0; i < s->host_count; i++) {
		uint64_t sequence;

		(void)authority_keepalive(s->authority, s->now, s->sessions[i], &s->actions,
					  &sequence);
	}
	seconds = seconds_now() - start;
	printf("a renewal: %.0f ns\n", seconds * 1e9 / s->host_count);
}

int scale_run(uint32_t hosts, uint64_t leases, uint64_t hosts_per_inode)
{
	static const struct allocator allocator = { counting_resize, NULL };
	struct authority_config config = {
		.term = { 30 * NS_PER_S },
		.drift_ppm = 1000,
		.margin = { 100 * NS_PER_MS },
		.session_count_max = hosts + 1,
		.slot_count_max = 64,
		.lease_count_max = UINT32_MAX,
		.lease_total_max = UINT64_MAX,
		.operation_count_max = 1000,
		.open_count_max = 1000,
		.ended_count_max = 1000,
		.backoff_min = { 10 * NS_PER_MS },
		.backoff_max = { NS_PER_S },
		.epoch = 1,
		.seed = 1,
	};
	struct scale s = {
		.host_count = hosts,
		.hosts_per_inode = hosts_per_inode ? hosts_per_inode : 8,
		.now = { NS_PER_S },
	};
	uint64_t before, granted;
	double start, seconds;

	s.sessions = hosts ? calloc(hosts + 1, sizeof(*s.sessions)) : NULL;
	authority_actions_init(&s.actions, &allocator);
	if (!s.sessions || authority_create(&config, &allocator, s.now, NULL, 0, false,
					    (struct duration){ 0 }, &s.authority)) {
		free(s.sessions);
		return 2;
	}
	if (open_sessions(&s))
		return 2;
	before = bytes_in_use;
	printf("%u hosts: %" PRIu64 " bytes a session\n", hosts, before / (hosts + 1));
	start = seconds_now();
	granted = grant_leases(&s, leases);
	seconds = seconds_now() - start;
	printf("%" PRIu64 " leases on %" PRIu64 " inodes: %.0f ns a grant, %.1f bytes a lease "
	       "(with its share of inodes and tables)\n", granted, 1 + leases / s.hosts_per_inode,
	       seconds * 1e9 / (double)(granted ? granted : 1),
	       (double)(bytes_in_use - before) / (double)(granted ? granted : 1));
	report_parts(&s, leases, granted, bytes_in_use - before);
	report_recalls(&s, leases);
	authority_destroy(s.authority);
	authority_actions_finish(&s.actions);
	free(s.sessions);
	printf("%" PRIu64 " bytes left over\n", bytes_in_use);
	return bytes_in_use ? 1 : 0;
}
