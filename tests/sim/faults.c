/*
 * What goes wrong, drawn from the seed: first what this run is like (its profile), then what
 * strikes it while it is in its wild phase.
 */
#include "tests/sim/sim.h"

enum fault {
	FAULT_PARTITION,
	FAULT_SLOW,
	FAULT_CRASH,
	FAULT_PAUSE,
	FAULT_ORIGIN_CRASH,
	FAULT_STREAM,
	FAULT_WEDGE,
	FAULT_FADE,
	FAULT_COUNT,
};

/* What an EVENT_FAULT is for. */
enum mark { MARK_ANY, MARK_MILD, MARK_CUT };

/* ---- the profile ---- */

static void draw_times(struct sim *sim, struct profile *p)
{
	struct rng *r = &sim->rng;
	static const uint32_t drifts[] = { 1000, 20000, 50000 };

	p->term = rng_between(r, 12, 30) * 100 * MS;
	p->drift_ppm = drifts[rng_below(r, 3)];
	p->margin = rng_between(r, 1, 10) * MS;
	p->fence_margin = rng_between(r, 1, 30) * MS;
	p->backoff_min = 10 * MS;
	p->backoff_max = rng_between(r, 1, 10) * 100 * MS;
	p->think_max = rng_between(r, 40, 400) * MS;
	p->drop_max = rng_between(r, 1, 60) * MS;
	p->apply_max = rng_between(r, 1, 40) * MS;
	p->delay_min = rng_between(r, 20, 500) * NS_PER_US;
	p->delay_max = p->delay_min + rng_between(r, 1, 20000) * NS_PER_US;
	p->wild = rng_between(r, 6, 12) * 1000 * MS;
	p->settle = 4 * p->term + 2000 * MS;
	p->mild = 2 * p->term;
	p->quiet = 4 * p->term + 2000 * MS;
}

void faults_draw_profile(struct sim *sim)
{
	struct rng *r = &sim->rng;
	struct profile *p = &sim->profile;

	memset(p, 0, sizeof(*p));
	p->host_count = (uint32_t)rng_between(r, 2, HOSTS_MAX);
	p->app_count = (uint32_t)rng_between(r, 1, APPS_MAX);
	p->slot_count = (uint32_t)rng_between(r, 1, SLOTS_MAX);
	p->lease_count_max = rng_chance(r, 300) ? (uint32_t)rng_between(r, 2, 6) : 64;
	p->lease_total_max = rng_chance(r, 100) ? 6 : 1000;
	p->recall_window_max = rng_chance(r, 300) ? (uint32_t)rng_between(r, 1, 4) : 32;
	p->ended_count_max = rng_chance(r, 300) ? (uint32_t)rng_between(r, 1, 2) : 16;
	p->operation_count_max = rng_chance(r, 200) ? (uint32_t)rng_between(r, 2, 4) : 64;
	p->session_count_max =
		p->host_count + (uint32_t)(rng_chance(r, 200) ? rng_below(r, 3) : 30);
	p->host_lease_count_max = rng_chance(r, 300) ? (uint32_t)rng_between(r, 1, 5) : 64;
	p->starved = rng_chance(r, 150) ? (uint32_t)rng_between(r, 1, 100) : 0;
	draw_times(sim, p);
	p->modify = (uint32_t)rng_between(r, 50, 400);
	if (rng_chance(r, 600)) {
		p->spike = (uint32_t)rng_between(r, 1, 60);
		p->spike_max = rng_chance(r, 500) ? p->term / 8 : 2 * p->term;
	}
	if (rng_chance(r, 500))
		p->loss = (uint32_t)rng_between(r, 1, 80);
	if (rng_chance(r, 600)) {
		p->duplicate = (uint32_t)rng_between(r, 5, 150);
		p->duplicate_delay_max = rng_chance(r, 500) ? 50 * MS : 2 * p->term;
	}
	p->held = (uint32_t)rng_below(r, 1001);
	if (rng_chance(r, 850))
		p->fault_interval = rng_between(r, 100, 2000) * MS;
	for (unsigned i = 0; i < FAULT_COUNT; i++)
		p->fault_weight[i] = rng_chance(r, 500) ? (uint32_t)rng_between(r, 1, 10) : 0;
	sim->origin.clock.offset = rng_below(r, 1000) * NS_PER_S;
	sim->origin.clock.ppm = (int64_t)rng_between(r, 0, 2) * p->drift_ppm - p->drift_ppm;
}

/* A clock is as wrong as is promised, in one direction or the other, or somewhere between. */
static int64_t draw_drift(struct sim *sim)
{
	int64_t drift = sim->profile.drift_ppm;

	switch (rng_below(&sim->rng, 4)) {
	case 0:
		return drift;
	case 1:
		return -drift;
	default:
		return (int64_t)rng_below(&sim->rng, 2 * (uint64_t)drift + 1) - drift;
	}
}

static void schedule_next(struct sim *sim)
{
	if (sim->profile.fault_interval && sim->phase == PHASE_WILD)
		sim_schedule(sim,
			     sim->now + rng_below(&sim->rng, 2 * sim->profile.fault_interval),
			     EVENT_FAULT, 0, 0, MARK_ANY);
}

void faults_draw_clocks(struct sim *sim)
{
	for (unsigned i = 0; i < sim->profile.host_count; i++) {
		sim->hosts[i].clock.offset = rng_below(&sim->rng, 1000) * NS_PER_S;
		sim->hosts[i].clock.ppm = draw_drift(sim);
	}
}

void faults_schedule(struct sim *sim)
{
	schedule_next(sim);
	/* Streams break in the mild phase as well, where nothing else does. */
	for (uint64_t at = sim->now + sim->profile.wild + sim->profile.settle;
	     at < sim->now + sim->profile.wild + sim->profile.settle + sim->profile.mild;
	     at += rng_between(&sim->rng, 50 * MS, 600 * MS))
		sim_schedule(sim, at, EVENT_FAULT, 0, 0, MARK_MILD);
}

/* ---- striking ---- */

void fault_break_stream(struct sim *sim, unsigned host)
{
	struct origin_stream *stream = &sim->origin.streams[host];
	uint32_t id = sim->hosts[host].stream;

	if (!id)
		return;
	sim_note(sim, "FAULT: the recall stream of host %u breaks", host);
	/* What is on its way is lost, and both sides find out in their own time. */
	for (unsigned i = 0; i < sim->event_count; i++) {
		struct event *e = &sim->heap[i];

		if (e->kind == EVENT_TO_HOST && sim->packets[e->index].on_stream &&
		    sim->packets[e->index].host == host && sim->packets[e->index].id == id)
			sim->packets[e->index].id = 0;
	}
	if (stream->id == id && rng_chance(&sim->rng, 500))
		stream->id = 0;
	sim->hosts[host].stream_broken = id;
	sim_schedule(sim,
		     sim->now + rng_below(&sim->rng, sim->phase == PHASE_WILD ? 1500 * MS :
									   100 * MS),
		     EVENT_STREAM_LOST, host, 0, id);
}

/* Mostly short against the term, sometimes long, and often about as long as the term. */
static uint64_t draw_length(struct sim *sim)
{
	uint64_t term = sim->profile.term;

	/* Seals outlive sessions, and what is cut off has to outlive seals. */
	if (sim->profile.seal && rng_chance(&sim->seal_rng, 400))
		return rng_between(&sim->seal_rng, 2 * term, 6 * term);
	switch (rng_below(&sim->rng, 3)) {
	case 0:
		return rng_between(&sim->rng, 10 * MS, term / 3);
	case 1:
		return rng_between(&sim->rng, term * 8 / 10, term * 14 / 10);
	default:
		return rng_between(&sim->rng, 10 * MS, 3 * term);
	}
}

static void strike_partition(struct sim *sim, struct host *h, unsigned index)
{
	uint64_t until = sim->now + draw_length(sim);
	uint64_t sides = rng_below(&sim->rng, 3);

	sim_note(sim, "FAULT: host %u is cut off (%s) until %.3f", index,
		 sides == 0 ? "both ways" : sides == 1 ? "towards the origin" : "from the origin",
		 (double)until / 1e9);
	if (sides != 2)
		h->link.blocked_to_origin_until = until;
	if (sides != 1)
		h->link.blocked_to_host_until = until;
	if (sides == 0 && rng_chance(&sim->rng, 500))
		fault_break_stream(sim, index);
}

/* Unmounts as is proper: what can be read without asking goes before the session does. */
static void leave(struct sim *sim, unsigned index)
{
	struct host *h = &sim->hosts[index];
	struct message message = { .type = MESSAGE_session_close };

	message.session_close.session = holder_session(h->holder).value;
	for (uint32_t i = 0; i < INODES_MAX; i++)
		h->copies[i].kept = false;
	cache_drop_all(sim, h);
	network_send(sim, index, false, false, ++h->next_id, &message, NULL, 0);
	host_crash(sim, index, true);
}

static void strike_crash(struct sim *sim, struct host *h, unsigned index)
{
	if (h->paused_until <= sim->now && rng_chance(&sim->rng, 200))
		leave(sim, index);
	else
		host_crash(sim, index, h->paused_until > sim->now || h->orphan_fence_generation ||
					       rng_chance(&sim->rng, 400));
}

/*
 * Answers come later and later, and then nothing does any more: what a host makes of the last
 * keep-alive that was answered is all that its caches stand on.
 */
static void strike_fade(struct sim *sim, struct host *h, unsigned index)
{
	uint64_t term = sim->profile.term;

	sim_note(sim, "FAULT: the link of host %u fades", index);
	h->link.slow_until = sim->now + term;
	h->link.slow_by = rng_between(&sim->rng, term / 8, term * 3 / 4);
	sim_schedule(sim, sim->now + rng_between(&sim->rng, term / 4, term), EVENT_FAULT, index, 0,
		     MARK_CUT);
}

static void strike(struct sim *sim, enum fault fault, unsigned index)
{
	struct host *h = &sim->hosts[index];
	uint64_t until = sim->now + draw_length(sim);

	switch (fault) {
	case FAULT_PARTITION:
		strike_partition(sim, h, index);
		break;
	case FAULT_SLOW:
		h->link.slow_until = until;
		h->link.slow_by = rng_between(&sim->rng, 1, 100) * sim->profile.term / 100;
		break;
	case FAULT_CRASH:
		if (!h->up)
			break;
		strike_crash(sim, h, index);
		sim_schedule(sim, until, EVENT_HOST_RESTART, index, 0, 0);
		break;
	case FAULT_PAUSE:
		if (h->up && h->paused_until < sim->now) {
			sim_note(sim, "FAULT: host %u stops until %.3f", index,
				 (double)until / 1e9);
			h->paused_until = until;
		}
		break;
	case FAULT_ORIGIN_CRASH:
		if (!sim->origin.up)
			break;
		origin_crash(sim);
		sim_schedule(sim, rng_chance(&sim->rng, 600) ? sim->now + 10 * MS : until,
			     EVENT_ORIGIN_RESTART, 0, 0, 0);
		break;
	case FAULT_STREAM:
		fault_break_stream(sim, index);
		break;
	case FAULT_WEDGE:
		sim_note(sim, "FAULT: host %u cannot drop until %.3f", index, (double)until / 1e9);
		h->wedged_until = until;
		break;
	case FAULT_FADE:
		strike_fade(sim, h, index);
		break;
	case FAULT_COUNT:
		break;
	}
}

/* The link of this host is gone for longer than a term. */
static void cut(struct sim *sim, unsigned index)
{
	struct link *link = &sim->hosts[index].link;

	sim_note(sim, "FAULT: host %u is cut off for long", index);
	link->slow_until = 0;
	link->blocked_to_origin_until = sim->now + 2 * sim->profile.term;
	if (rng_chance(&sim->rng, 500))
		link->blocked_to_host_until = link->blocked_to_origin_until;
}

void faults_strike(struct sim *sim, unsigned index, uint32_t mark)
{
	const struct profile *p = &sim->profile;
	unsigned host = (unsigned)rng_below(&sim->rng, p->host_count);
	uint64_t sum = 0, choice;

	if (mark == MARK_MILD && sim->phase == PHASE_MILD)
		fault_break_stream(sim, host);
	if (mark == MARK_CUT && sim->phase == PHASE_WILD)
		cut(sim, index);
	if (mark != MARK_ANY || sim->phase != PHASE_WILD)
		return;
	for (unsigned i = 0; i < FAULT_COUNT; i++)
		sum += p->fault_weight[i];
	choice = rng_below(&sim->rng, sum);
	for (unsigned i = 0; i < FAULT_COUNT && sum; i++) {
		if (choice < p->fault_weight[i]) {
			strike(sim, (enum fault)i, host);
			break;
		}
		choice -= p->fault_weight[i];
	}
	schedule_next(sim);
}

void faults_heal(struct sim *sim)
{
	sim->arena.fail = 0;
	for (unsigned i = 0; i < sim->profile.host_count; i++) {
		struct host *h = &sim->hosts[i];

		h->link.blocked_to_origin_until = h->link.blocked_to_host_until = 0;
		h->link.slow_until = 0;
		h->wedged_until = 0;
		if (!h->up)
			sim_schedule(sim, sim->now, EVENT_HOST_RESTART, i, 0, 0);
	}
	if (!sim->origin.up)
		sim_schedule(sim, sim->now, EVENT_ORIGIN_RESTART, 0, 0, 0);
}
