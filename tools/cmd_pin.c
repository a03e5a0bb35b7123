/*
 * cmd_pin - leasehold pin: what is cached of files stays; leasehold unpin: it is like any other again.
 */
#include <argp.h>
#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tools/cmd.h"
#include "tools/parse.h"
#include "tools/xattr.h"

#define DESCRIPTORS_MAX 64 /* of a walk; deeper directories are opened again */

static struct {
	bool on;
	bool bad;
	uint64_t bytes; /* of all that was pinned now */
} run;

static const char *title(void)
{
	return run.on ? "leasehold pin" : "leasehold unpin";
}

/* Ends the walk. */
static int say_full(const char *path, uint64_t taken, uint64_t limit)
{
	char taken_text[PARSE_TEXT_BYTES_MAX], limit_text[PARSE_TEXT_BYTES_MAX];

	print_bytes(taken_text, taken);
	print_bytes(limit_text, limit);
	fprintf(stderr, "%s: %s: no space left for pins: with it, what is pinned would take more than %s, "
		"three quarters of what the cache can have (%s are taken); unpin something, or give "
		"the mount a larger --cache-size\n", title(), path, limit_text, taken_text);
	run.bad = true;
	return -1;
}

static int pinned(const char *path, const char *state, uint64_t size)
{
	uint64_t taken, limit;

	if (sscanf(state, "full %" SCNu64 " %" SCNu64, &taken, &limit) == 2)
		return say_full(path, taken, limit);
	if (strncmp(state, "many ", 5) == 0) {
		fprintf(stderr, "%s: %s: %s files are pinned, and no more can be; for many files there are "
			"policies, see leasehold-policy(5)\n", title(), path, state + 5);
		run.bad = true;
		return -1;
	}
	run.bytes += size;
	/* What is not cached yet will need room as well. */
	if (sscanf(state, "on %" SCNu64, &limit) == 1 && run.bytes > limit)
		return say_full(path, run.bytes, limit);
	return 0;
}

static int file(const char *path, uint64_t size)
{
	char *state = NULL;
	int r = xattr_get(path, run.on ? "pin.on" : "pin.off", &state);

	if (r < 0) {
		fprintf(stderr, "%s: %s%s%s\n", title(), path, r == -ENODATA ? " is " : ": ",
			r == -ENODATA ? "not on a Leasehold mount" : strerror(-r));
		run.bad = true;
		return 0;
	}
	r = run.on ? pinned(path, state, size) : 0;
	if (!run.on && strncmp(state, "policy", 6) == 0) {
		fprintf(stderr, "%s: %s: a policy has it pinned; leasehold stat says which\n", title(),
			path);
		run.bad = true;
	}
	free(state);
	return r;
}

static int visit(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)at;
	if (type == FTW_DNR || type == FTW_NS) {
		fprintf(stderr, "%s: %s: cannot be read\n", title(), path);
		run.bad = true;
		return 0;
	}
	return S_ISREG(st->st_mode) ? file(path, (uint64_t)st->st_size) : 0;
}

static void path(const char *name)
{
	char *real = realpath(name, NULL);
	int r = real ? xattr_is_leasehold(real) : -errno;

	if (r < 0) {
		fprintf(stderr, "%s: %s%s%s\n", title(), name, r == -ENODATA ? " is " : ": ",
			r == -ENODATA ? "not on a Leasehold mount" : strerror(-r));
		run.bad = true;
	} else if (nftw(real, visit, DESCRIPTORS_MAX, FTW_PHYS | FTW_MOUNT) < 0 && !run.bad) {
		fprintf(stderr, "%s: %s: %s\n", title(), name, strerror(errno));
		run.bad = true;
	}
	free(real);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	(void)arg;
	if (key == ARGP_KEY_NO_ARGS)
		argp_error(state, "which file? Name a path on a mount");
	return ARGP_ERR_UNKNOWN;
}

static int work(const struct argp *argp, int argc, char **argv)
{
	int first;

	if (argp_parse(argp, argc, argv, 0, &first, NULL) != 0)
		return EXIT_USAGE;
	for (int i = first; i < argc; i++)
		path(argv[i]);
	return run.bad ? EXIT_FAILURE : EXIT_SUCCESS;
}

int cmd_pin(int argc, char **argv)
{
	static const struct argp argp = {
		.parser = parse,
		.args_doc = "PATH ...",
		.doc = "Has what this host caches of files, and of directories all that is below, stay "
		       "in the cache. It fetches nothing.\vSee leasehold-pin(1).",
	};

	run.on = true;
	return work(&argp, argc, argv);
}

int cmd_unpin(int argc, char **argv)
{
	static const struct argp argp = {
		.parser = parse,
		.args_doc = "PATH ...",
		.doc = "Takes back what leasehold pin did.\vSee leasehold-pin(1).",
	};

	return work(&argp, argc, argv);
}
