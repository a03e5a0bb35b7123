/* Time, events, trace, and the order in which one run goes through its phases. */
#include "tests/sim/sim.h"

#include <assert.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>

/* ---- the heap of events, ordered by (time, sequence) ---- */

static bool event_before(const struct event *a, const struct event *b)
{
	return a->at != b->at ? a->at < b->at : a->sequence < b->sequence;
}

void sim_schedule(struct sim *sim, uint64_t at, enum event_kind kind, unsigned host,
		  unsigned index, uint32_t generation)
{
	struct event e = { .at = at < sim->now ? sim->now : at,
			   .sequence = sim->event_sequence++,
			   .generation = generation,
			   .index = (uint16_t)index,
			   .kind = (uint8_t)kind,
			   .host = (uint8_t)host };
	uint32_t i;

	if (sim->event_count == EVENTS_MAX)
		sim_fail(sim, "the simulator's heap of events is full");
	for (i = sim->event_count++; i > 0; i = (i - 1) / 2) {
		if (!event_before(&e, &sim->heap[(i - 1) / 2]))
			break;
		sim->heap[i] = sim->heap[(i - 1) / 2];
	}
	sim->heap[i] = e;
}

static struct event take_event(struct sim *sim)
{
	struct event first = sim->heap[0], last = sim->heap[--sim->event_count];
	uint32_t i = 0, child;

	while ((child = 2 * i + 1) < sim->event_count) {
		if (child + 1 < sim->event_count &&
		    event_before(&sim->heap[child + 1], &sim->heap[child]))
			child++;
		if (!event_before(&sim->heap[child], &last))
			break;
		sim->heap[i] = sim->heap[child];
		i = child;
	}
	sim->heap[i] = last;
	return first;
}

/* ---- clocks ---- */

uint64_t clock_read(const struct clock *clock, uint64_t now)
{
	return clock->offset + now / 1000000 * (uint64_t)(1000000 + clock->ppm) +
	       now % 1000000 * (uint64_t)(1000000 + clock->ppm) / 1000000;
}

uint64_t clock_reaches(const struct clock *clock, uint64_t local)
{
	uint64_t rate = (uint64_t)(1000000 + clock->ppm), d, now;

	if (local == UINT64_MAX)
		return UINT64_MAX;
	if (local <= clock->offset)
		return 0;
	d = local - clock->offset;
	now = d / rate * 1000000 + d % rate * 1000000 / rate;
	while (clock_read(clock, now) < local)
		now++;
	return now;
}

/* ---- trace and failure ---- */

void sim_hash(struct sim *sim, uint64_t value)
{
	sim->hash = (sim->hash ^ value) * UINT64_C(0x9fb21c651e98df25);
	sim->hash ^= sim->hash >> 28;
}

void sim_trace(struct sim *sim, const char *format, ...)
{
	char *line = sim->trace[sim->trace_next++ % TRACE_LINES];
	int length = snprintf(line, TRACE_BYTES, "%11.6f ", (double)sim->now / 1e9);
	va_list list;

	va_start(list, format);
	vsnprintf(line + length, (size_t)(TRACE_BYTES - length), format, list);
	va_end(list);
	if (sim->trace_file)
		fprintf(sim->trace_file, "%s\n", line);
}

void sim_print_trace(const struct sim *sim, FILE *file)
{
	uint32_t count = sim->trace_next < TRACE_LINES ? sim->trace_next : TRACE_LINES;

	for (uint32_t i = sim->trace_next - count; i < sim->trace_next; i++)
		fprintf(file, "  %s\n", sim->trace[i % TRACE_LINES]);
}

void sim_fail(struct sim *sim, const char *format, ...)
{
	va_list list;

	va_start(list, format);
	vsnprintf(sim->violation, sizeof(sim->violation), format, list);
	va_end(list);
	siglongjmp(sim->failed, 1);
}

/* An assertion of the core failed: that is a finding with a seed like any other. */
static struct sim *running;

static void on_abort(int signal_number)
{
	(void)signal_number;
	if (running) {
		snprintf(running->violation, sizeof(running->violation),
			 "the core aborted (an assertion or an invariant; see above)");
		siglongjmp(running->failed, 1);
	}
}

/* ---- phases ---- */

static void next_phase(struct sim *sim)
{
	const struct profile *p = &sim->profile;
	uint64_t length = 0;

	sim->phase++;
	sim->phase_at = sim->now;
	sim_note(sim, "---- phase %d ----", (int)sim->phase);
	switch (sim->phase) {
	case PHASE_WILD:
		return;
	case PHASE_SETTLE:
		faults_heal(sim);
		length = p->settle;
		break;
	case PHASE_MILD:
		length = p->mild;
		break;
	case PHASE_QUIET:
		length = p->quiet;
		break;
	}
	sim_schedule(sim, sim->now + length, EVENT_PHASE, 0, 0, 0);
}

/* ---- one run ---- */

static bool paused(struct sim *sim, const struct event *e)
{
	switch (e->kind) {
	case EVENT_TO_HOST:
	case EVENT_HOST_TICK:
	case EVENT_REQUEST:
	case EVENT_DROPPED:
	case EVENT_DROPPED_ALL:
	case EVENT_STREAM_LOST:
	case EVENT_LOCKER:
		return sim->hosts[e->host].paused_until > sim->now;
	default:
		return false;
	}
}

static void run_event(struct sim *sim, const struct event *e)
{
	switch (e->kind) {
	case EVENT_TO_ORIGIN:
		origin_packet(sim, &sim->packets[e->index]);
		break;
	case EVENT_TO_HOST:
		host_packet(sim, &sim->packets[e->index]);
		break;
	case EVENT_HOST_TICK:
		host_tick(sim, e->host, e->generation);
		break;
	case EVENT_ORIGIN_TICK:
		origin_tick(sim, e->generation);
		break;
	case EVENT_APP:
		app_step(sim, e->host, e->index, e->generation);
		break;
	case EVENT_REQUEST:
		host_request_timeout(sim, e->host, e->index, e->generation);
		break;
	case EVENT_DROPPED:
		host_drop_done(sim, e->host, e->index, e->generation);
		break;
	case EVENT_DROPPED_ALL:
		host_dropped_all(sim, e->host, e->generation);
		break;
	case EVENT_FENCE:
		host_fence(sim, e->host, e->generation);
		break;
	case EVENT_STREAM_LOST:
		host_stream_lost(sim, e->host, e->generation);
		break;
	case EVENT_APPLY:
		origin_apply(sim, e->index, e->generation);
		break;
	case EVENT_FINISH:
		origin_finish(sim, e->index, e->generation);
		break;
	case EVENT_FAULT:
		faults_strike(sim, e->host, e->generation);
		break;
	case EVENT_HOST_RESTART:
		if (!sim->hosts[e->host].up)
			host_start(sim, e->host);
		break;
	case EVENT_ORIGIN_RESTART:
		if (!sim->origin.up)
			origin_start(sim);
		break;
	case EVENT_PHASE:
		next_phase(sim);
		break;
	case EVENT_LOCKER:
		locks_step(sim, e->host, e->index, e->generation);
		break;
	case EVENT_RECORD:
		origin_record(sim, e->generation);
		break;
	}
}

static void set_up(struct sim *sim, uint64_t seed)
{
	arena_reset(&sim->arena);
	sim->seed = seed;
	rng_init(&sim->rng, seed);
	sim->now = 1000 * MS;
	sim->hash = seed;
	sim->step = 0;
	sim->phase = PHASE_WILD;
	sim->phase_at = sim->now;
	sim->event_count = 0;
	sim->event_sequence = 0;
	sim->trace_next = 0;
	sim->violation[0] = '\0';
	sim->packet_next = 0;
	for (unsigned i = 0; i < PACKETS_MAX; i++)
		sim->packets[i].used = false;
	memset(&sim->origin, 0, offsetof(struct origin, operations));
	memset(&sim->model, 0, offsetof(struct model, attempts));
	sim->model.attempt_count = 1;
	memset(sim->model.what_applied, 0,
	       sizeof(struct model) - offsetof(struct model, what_applied));
	sim->arena.chance = &sim->rng;
	faults_draw_profile(sim);
	rng_init(&sim->lock_rng, ~seed);
	rng_init(&sim->seal_rng, seed ^ UINT64_C(0x5ea1));
	sim->profile.seal = rng_mix(seed ^ UINT64_C(0x5ea1)) % 3 ? 0 : 100;
	sim->profile.locker_count = rng_mix(seed) % 3 ? 0 : LOCKERS_MAX;
	store_init(sim);
	for (unsigned i = 0; i < sim->profile.host_count; i++)
		memset(&sim->hosts[i], 0, sizeof(sim->hosts[i]));
	faults_draw_clocks(sim);
}

bool sim_run(struct sim *sim, uint64_t seed, bool tracing)
{
	struct sigaction action = { .sa_handler = on_abort, .sa_flags = SA_NODEFER };

	sigaction(SIGABRT, &action, NULL);
	running = sim;
	sim->tracing = tracing;
	if (sigsetjmp(sim->failed, 1)) {
		running = NULL;
		return false;
	}
	set_up(sim, seed);
	origin_start(sim);
	for (unsigned i = 0; i < sim->profile.host_count; i++)
		host_start(sim, i);
	sim_schedule(sim, sim->now + sim->profile.wild, EVENT_PHASE, 0, 0, 0);
	faults_schedule(sim);
	while (sim->event_count && sim->phase <= PHASE_QUIET) {
		struct event e = take_event(sim);

		sim->now = e.at;
		if (paused(sim, &e)) {
			/* A stopped process finds all of it when it goes on. */
			sim_schedule(sim, sim->hosts[e.host].paused_until, e.kind, e.host, e.index,
				     e.generation);
			continue;
		}
		sim->step++;
		sim_hash(sim, e.at ^ (uint64_t)e.kind << 56 ^ (uint64_t)e.host << 48 ^
				      (uint64_t)e.index << 40);
		run_event(sim, &e);
	}
	app_final_check(sim);
	locks_final_check(sim);
	running = NULL;
	return true;
}
