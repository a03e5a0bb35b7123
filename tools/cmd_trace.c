/*
 * cmd_trace - leasehold trace: record what applications do on a mount, and replay it with prefetch and
 * without.
 *
 * The model is prefetch/replay.h; this reads files and prints a table.
 */
#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "prefetch/replay.h"
#include "prefetch/trace.h"
#include "tools/cmd.h"
#include "tools/parse.h"
#include "tools/trace_record.h"

#define TRACE_BYTES_MAX (UINT64_C(1) << 30)
#define ROUND_TRIP_MS 20
#define RATE_DEFAULT (UINT64_C(1) << 30)

struct arguments {
	char **files;
	int file_count;
	const char *verb, *output;
	struct replay_config config;
};

static const char *const predictor_names[PREDICTOR_COUNT] = {
#define X(name, text) [PREDICTOR_##name] = text,
	PREDICTORS(X)
#undef X
};

static void *resize(void *context, void *pointer, size_t old_size, size_t size)
{
	if (size == 0) {
		free(pointer);
		return NULL;
	}
	return realloc(pointer, size);
}

static const struct allocator allocator = { resize, NULL };

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;
	uint64_t value;

	switch (key) {
	case 'r':
		if (parse_milliseconds(arg, &value))
			argp_error(state, "a round trip is a time like 20ms, not %s", arg);
		a->config.round_trip = duration_ms(value);
		return 0;
	case 'b':
		if (parse_bytes(arg, &a->config.rate))
			argp_error(state, "a rate is bytes a second, like 100M, not %s", arg);
		return 0;
	case 'c':
		if (parse_bytes(arg, &a->config.cache_bytes))
			argp_error(state, "the size of a cache is bytes, like 10G, not %s", arg);
		return 0;
	case 'o':
		a->output = arg;
		return 0;
	case ARGP_KEY_ARG:
		return ARGP_ERR_UNKNOWN; /* all of them are taken from ARGP_KEY_ARGS */
	case ARGP_KEY_ARGS:
		a->verb = state->argv[state->next];
		a->files = state->argv + state->next + 1;
		a->file_count = state->argc - state->next - 1;
		if (strcmp(a->verb, "replay") != 0 && strcmp(a->verb, "record") != 0)
			argp_error(state, "record MOUNT or replay FILE ..., not %s", a->verb);
		else if (strcmp(a->verb, "replay") == 0 && a->file_count == 0)
			argp_error(state, "replay which FILE?");
		else if (strcmp(a->verb, "record") == 0 && a->file_count != 1)
			argp_error(state, "record which MOUNT?");
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "record MOUNT or replay FILE ...");
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

/* The text of a file, to be freed; NULL: errno says why. */
static uint8_t *read_file(const char *path, size_t *ret_length)
{
	FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
	size_t length = 0, capacity = 0;
	uint8_t *text = NULL;
	int error = 0;

	if (!file)
		return NULL;
	do {
		if (length == capacity) {
			size_t larger = capacity ? capacity * 2 : 65536;
			uint8_t *grown = larger <= TRACE_BYTES_MAX ? realloc(text, larger) : NULL;

			if (!grown) {
				error = larger > TRACE_BYTES_MAX ? EFBIG : ENOMEM;
				break;
			}
			text = grown;
			capacity = larger;
		}
		length += fread(text + length, 1, capacity - length, file);
	} while (!feof(file) && !ferror(file));
	if (ferror(file))
		error = EIO;
	if (file != stdin)
		(void)fclose(file); /* it was read only */
	if (error) {
		free(text);
		errno = error;
		return NULL;
	}
	*ret_length = length;
	return text;
}

static void print_row(const char *name, const struct ledger_counts *c)
{
	const uint64_t bytes[] = { c->fetched_bytes, c->used_bytes, c->wasted_bytes, c->late_bytes };
	const uint64_t counts[] = { c->fetched_count, c->used_count, c->wasted_count, c->late_count };
	char text[PARSE_TEXT_BYTES_MAX];

	printf("%-12s", name);
	for (int i = 0; i < 4; i++) {
		print_bytes(text, bytes[i]);
		printf(" %8" PRIu64 " %11s", counts[i], text);
	}
	putchar('\n');
}

static double seconds(struct duration d)
{
	return (double)d.ns / NS_PER_S;
}

static void print_result(const char *path, const struct replay_result *with,
			 const struct replay_result *without)
{
	char wanted[PARSE_TEXT_BYTES_MAX], plain[PARSE_TEXT_BYTES_MAX], ahead[PARSE_TEXT_BYTES_MAX];

	printf("%s: %" PRIu64 " accesses\n", path, with->accesses);
	printf("%-12s %20s %20s %20s %20s\n", "predictor", "fetched", "used", "wasted", "late");
	for (int i = 0; i < PREDICTOR_COUNT; i++)
		if (with->predictors[i].fetched_count || with->predictors[i].silenced)
			print_row(predictor_names[i], &with->predictors[i]);
	print_bytes(wanted, with->wanted_bytes);
	print_bytes(plain, without->fetched_bytes);
	print_bytes(ahead, with->fetched_bytes);
	printf("read %s; from the origin %s without, %s with\n", wanted, plain, ahead);
	printf("stalled %.3f s in %" PRIu64 " accesses without, %.3f s in %" PRIu64 " with; "
	       "lasted %.3f s, %.3f s\n",
	       seconds(without->stalled), without->stalls, seconds(with->stalled), with->stalls,
	       seconds(without->lasted), seconds(with->lasted));
}

static int replay(const char *path, struct replay_config *config)
{
	struct replay_result results[2];
	const char *expected = NULL;
	size_t length;
	uint8_t *text = read_file(path, &length);
	uint32_t line = 0;
	int r = 0;

	if (!text) {
		fprintf(stderr, "leasehold trace: %s: %s\n", path, strerror(errno));
		return EXIT_FAILURE;
	}
	for (int predict = 0; predict < 2 && r == 0; predict++) {
		config->predict = predict;
		r = replay_run((struct slice){ text, length }, config, &allocator, &results[predict],
			       &line, &expected);
	}
	free(text);
	if (r == -EINVAL)
		fprintf(stderr, "leasehold trace: %s:%" PRIu32 ": expected %s\n", path, line, expected);
	else if (r < 0)
		fprintf(stderr, "leasehold trace: %s: %s\n", path, strerror(-r));
	else
		print_result(path, &results[1], &results[0]);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int cmd_trace(int argc, char **argv)
{
	static const struct argp_option rows[] = {
		{ "output", 'o', "FILE", 0, "of a recording (default: standard output)", 0 },
		{ "round-trip", 'r', "TIME", 0, "of the link of the model (default 20ms)", 0 },
		{ "rate", 'b', "BYTES", 0, "a second, of the link (default 1G; 0: no limit)", 0 },
		{ "cache-size", 'c', "BYTES", 0, "of the cache (default 0: it has room for all)", 0 },
		{ 0 },
	};
	static const struct argp argp = {
		.options = rows,
		.parser = parse,
		.args_doc = "record MOUNT\nreplay FILE ...",
		.doc = "Records what applications do on a mount, until ^C; or says what prefetch would "
		       "have fetched for a recorded job, what of that was used, and how long the job "
		       "would have waited.\vSee leasehold-trace(1).",
	};
	struct arguments a = { .config = { .round_trip = duration_ms(ROUND_TRIP_MS),
					   .rate = RATE_DEFAULT } };
	int status = EXIT_SUCCESS;

	if (argp_parse(&argp, argc, argv, 0, NULL, &a) != 0)
		return EXIT_USAGE;
	if (strcmp(a.verb, "record") == 0)
		return trace_record(a.files[0], a.output);
	for (int i = 0; i < a.file_count; i++) {
		if (i > 0)
			putchar('\n');
		if (replay(a.files[i], &a.config) != EXIT_SUCCESS)
			status = EXIT_FAILURE;
	}
	return status;
}
