/* The simulator's command line: one seed, a range of them, or the scale model. */
#include "tests/sim/sim.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ARENA_BYTES ((size_t)64 << 20)

struct options {
	const char *command; /* how to run this again, for the reader of a failure */
	uint64_t first, count;
	bool expect_failure, trace, observed_only;
	const char *regressions;
};

static struct sim *sim_create(void)
{
	struct sim *sim = calloc(1, sizeof(*sim));

	if (!sim)
		return NULL;
	sim->heap = calloc(EVENTS_MAX, sizeof(*sim->heap));
	sim->trace = calloc(TRACE_LINES, sizeof(*sim->trace));
	if (!sim->heap || !sim->trace || arena_init(&sim->arena, ARENA_BYTES)) {
		free(sim->heap);
		free(sim->trace);
		free(sim);
		return NULL;
	}
	return sim;
}

static void sim_destroy(struct sim *sim)
{
	arena_finish(&sim->arena);
	free(sim->heap);
	free(sim->trace);
	free(sim);
}

/* Runs the seed again, this time with its trace, which is the same by construction. */
static void report(struct sim *sim, const struct options *o, uint64_t seed)
{
	char violation[sizeof(sim->violation)];

	memcpy(violation, sim->violation, sizeof(violation));
	if (sim_run(sim, seed, true) || strcmp(sim->violation, violation) != 0)
		printf("seed %" PRIu64 " does not fail in the same way twice: the simulator or "
		       "the core is not deterministic\n", seed);
	printf("the last events of seed %" PRIu64 ":\n", seed);
	sim_print_trace(sim, stdout);
	printf("\nseed %" PRIu64 ": %s\n", seed, violation);
	printf("run it again with: %s --seed %" PRIu64 "\n", o->command, seed);
	fflush(stdout);
}

/* True when the seed broke no rule. */
static bool run_seed(struct sim *sim, const struct options *o, uint64_t seed)
{
	sim->trace_file = o->trace ? stdout : NULL;
	if (sim_run(sim, seed, o->trace))
		return true;
	sim->trace_file = NULL;
	if (!o->expect_failure)
		report(sim, o, seed);
	return false;
}

/* The same seed is the same run, event by event and byte by byte. */
static bool check_deterministic(struct sim *sim, uint64_t seed)
{
	uint64_t hash;

	(void)sim_run(sim, seed, false);
	hash = sim->hash;
	(void)sim_run(sim, seed, true);
	if (hash == sim->hash)
		return true;
	printf("seed %" PRIu64 " ran in two ways: %016" PRIx64 " and %016" PRIx64 "\n", seed, hash,
	       sim->hash);
	return false;
}

static int run_regressions(struct sim *sim, const struct options *o)
{
	FILE *file = fopen(o->regressions, "r");
	char line[300];
	int failures = 0, count = 0;

	if (!file) {
		perror(o->regressions);
		return 2;
	}
	while (fgets(line, sizeof(line), file)) {
		char *end;
		uint64_t seed = strtoull(line, &end, 10);

		if (end == line)
			continue;
		count++;
		if (!run_seed(sim, o, seed))
			failures++;
	}
	fclose(file);
	printf("%d regression seeds, %d failures\n", count, failures);
	return failures ? 1 : 0;
}

static int run_range(struct sim *sim, const struct options *o)
{
	uint64_t reads = 0, cached = 0, paged = 0, modifications = 0, steps = 0;
	clock_t start = clock();
	double seconds;

	for (uint64_t seed = o->first; seed < o->first + o->count; seed++) {
		bool passed = seed % 1000 || check_deterministic(sim, seed);

		passed = run_seed(sim, o, seed) && passed;
		if (!passed && o->expect_failure) {
			printf("caught by seed %" PRIu64 " (%" PRIu64 " seeds): %s\n", seed,
			       seed - o->first + 1, sim->violation);
			return 0;
		}
		if (!passed)
			return 1;
		reads += sim->model.reads;
		cached += sim->model.reads_cached;
		paged += sim->model.reads_paged;
		modifications += sim->model.modifications;
		steps += sim->step;
	}
	seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
	printf("%" PRIu64 " seeds from %" PRIu64 ": %" PRIu64 " events, %" PRIu64
	       " observations (%" PRIu64 " from caches, %" PRIu64 " from pages), %" PRIu64
	       " modifications; %.0f seeds/s\n", o->count, o->first, steps, reads, cached, paged,
	       modifications, seconds > 0 ? (double)o->count / seconds : 0.0);
	if (o->expect_failure)
		printf("NOT CAUGHT: this variant of the protocol is wrong, and no seed shows it\n");
	return o->expect_failure ? 1 : 0;
}

static void usage(void)
{
	puts("usage: sim [--first N] [--seeds N] [--expect-failure] [--regressions FILE]\n"
	     "       sim --seed N [--trace]   one run; a failure prints its last events, or all\n"
	     "       sim ... --observed-only  judges by what callers are told, nothing else\n"
	     "       sim --scale HOSTS LEASES [HOSTS-PER-INODE]\n"
	     "                          memory and recall cost of a large authority");
}

int main(int argc, char **argv)
{
	static const struct option longopts[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "seeds", required_argument, NULL, 'n' },
		{ "first", required_argument, NULL, 'f' },
		{ "expect-failure", no_argument, NULL, 'e' },
		{ "regressions", required_argument, NULL, 'r' },
		{ "observed-only", no_argument, NULL, 'o' },
		{ "trace", no_argument, NULL, 't' },
		{ "scale", required_argument, NULL, 'S' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct options o = { .first = 1, .count = 1000 };
	const char *command = getenv("SIM_COMMAND");
	struct sim *sim;
	int c, result;

	o.command = command ? command : argv[0];
	while ((c = getopt_long(argc, argv, "", longopts, NULL)) != -1) {
		switch (c) {
		case 's':
			o.first = strtoull(optarg, NULL, 0);
			o.count = 1;
			break;
		case 'n':
			o.count = strtoull(optarg, NULL, 0);
			break;
		case 'f':
			o.first = strtoull(optarg, NULL, 0);
			break;
		case 'e':
			o.expect_failure = true;
			break;
		case 'o':
			o.observed_only = true;
			break;
		case 't':
			o.trace = true;
			break;
		case 'r':
			o.regressions = optarg;
			break;
		case 'S':
			if (optind >= argc) {
				usage();
				return 2;
			}
			return scale_run((uint32_t)strtoul(optarg, NULL, 0),
					 strtoull(argv[optind], NULL, 0),
					 optind + 1 < argc ?
						 strtoull(argv[optind + 1], NULL, 0) : 0);
		default:
			usage();
			return c == 'h' ? 0 : 2;
		}
	}
	sim = sim_create();
	if (!sim) {
		fputs("sim: out of memory\n", stderr);
		return 2;
	}
	sim->observed_only = o.observed_only;
	result = o.regressions ? run_regressions(sim, &o) : run_range(sim, &o);
	sim_destroy(sim);
	return result;
}
