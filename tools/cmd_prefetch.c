/*
 * cmd_prefetch - leasehold prefetch: what will be read is fetched now; leasehold evict: it goes.
 *
 * A job is a process: it walks the trees, has the mount fetch pieces of files (fs/mount/asked.h), a window
 * of them at a time, and looks whether they have come. So it follows a list of any length with bounded
 * memory, and outlives the daemon: with --detach it waits for the mount to come back, and asks for what is
 * missing. It holds nothing open on the mount. What others may want to know is in a small file for each job.
 */
#include <argp.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tools/cmd.h"
#include "tools/job.h"
#include "tools/ordered.h"
#include "tools/parse.h"
#include "tools/xattr.h"

#define PIECE_BYTES (UINT64_C(4) << 20)
#define PIECES_MAX 192u			     /* asked for at a time; the mount takes 256 of all jobs */
#define WINDOW_BYTES (UINT64_C(64) << 20)    /* of them */
#define LIMITED_BYTES_MIN (UINT64_C(1) << 18) /* a piece, when a rate is to be kept */
#define ORDERED_WINDOW_BYTES (UINT64_C(256) << 20)
#define NAP_MIN_MS 2
#define NAP_MAX_MS 100
#define GIVE_UP_S 30.0 /* a piece that was asked for again and again, and does not come */
#define ASKS_MAX 8u
#define KEY_WAIT 256
#define AWAY_MAX_S 3600.0 /* for so long a detached job waits for its mount */

struct piece {
	char *path;
	uint64_t start, end;
	double asked_at;
	unsigned asks;
	bool last; /* of its file */
	bool failed;
};

static struct {
	struct job job;
	const char *list;
	bool metadata_only, detach, wait, ordered;
	uint64_t ahead;	      /* of its reader, when ordered */
	const char *priority; /* as in the attribute's name */
	uint64_t limit; /* bytes per second; 0: none */
	double began, shown;
	struct piece pieces[PIECES_MAX];
	unsigned count;
	uint64_t window; /* bytes of the pieces */
	uint64_t sent;
	unsigned complaints;
} run;

static volatile sig_atomic_t stopped;

static void on_signal(int number)
{
	(void)number;
	stopped = 1;
}

static double now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static void nap(unsigned ms)
{
	const struct timespec time = { ms / 1000, (long)(ms % 1000) * 1000000L };

	nanosleep(&time, NULL);
}

static void complain(const char *path, const char *why)
{
	run.job.failed++;
	if (run.complaints++ < 20)
		fprintf(stderr, "leasehold prefetch: %s: %s\n", path, why);
}

/* ---- how it goes ---- */

static void show(bool end)
{
	char bytes[PARSE_TEXT_BYTES_MAX], rate[PARSE_TEXT_BYTES_MAX];
	double at = now(), took = at - run.began;

	if (!end && at - run.shown < 0.5)
		return;
	run.shown = at;
	job_write(&run.job);
	if (run.detach || !isatty(STDERR_FILENO))
		return;
	print_bytes(bytes, run.job.bytes);
	print_bytes(rate, took > 0 ? (uint64_t)((double)run.job.bytes / took) : 0);
	fprintf(stderr, "\r\033[K%" PRIu64 " of %" PRIu64 " files, %s, %s/s%s", run.job.files,
		run.job.found, bytes, rate, end ? "\n" : "");
	if (!end && run.job.found_bytes > run.job.bytes && run.job.bytes > 0)
		fprintf(stderr, ", %.0f s left of what was found",
			took * (double)(run.job.found_bytes - run.job.bytes) / (double)run.job.bytes);
}

/* The mount itself is not there: true when it is again. */
static bool came_back(void)
{
	double since = now();
	char *status;

	if (xattr_get_status(run.job.root, &status) == 0) {
		free(status);
		return false;
	}
	while (run.detach && !stopped && now() - since < AWAY_MAX_S) {
		nap(NAP_MAX_MS);
		if (xattr_get_status(run.job.root, &status) == 0) {
			free(status);
			return true;
		}
	}
	if (!stopped) {
		fprintf(stderr, "leasehold prefetch: there is no mount at %s any more\n", run.job.root);
		stopped = 2;
	}
	return false;
}

/* ---- pieces ---- */

static void piece_end(unsigned index)
{
	struct piece *piece = &run.pieces[index];

	run.window -= piece->end - piece->start;
	if (!piece->failed)
		run.job.bytes += piece->end - piece->start;
	if (piece->last)
		run.job.files++;
	free(piece->path);
	*piece = run.pieces[--run.count];
}

/* True when it is over. */
static bool piece_ask(struct piece *piece)
{
	char name[64], *state = NULL;
	const char *why = NULL;
	int r;

	(void)snprintf(name, sizeof(name), "prefetch.%s%" PRIu64 "-%" PRIu64, run.priority, piece->start,
		       piece->end);
	r = xattr_get(piece->path, name, &state);
	if (r < 0 && came_back()) {
		piece->asked_at = now();
		piece->asks = 0;
		return false;
	}
	if (stopped)
		return false;
	if (r < 0)
		why = r == -ENODATA ? "it is not on a Leasehold mount" : strerror(-r);
	else if (strcmp(state, "off") == 0)
		why = "the mount was made with --prefetch=off";
	else if (strcmp(state, "full") == 0)
		why = "there is no room in the cache; see leasehold-mount(8), --cache-size";
	else if (strcmp(state, "refused") == 0)
		why = "its policy says admit=never; leasehold stat says which";
	else if (strcmp(state, "asked") == 0)
		piece->asks++;
	if (!why && strcmp(state, "complete") != 0 && now() - piece->asked_at > GIVE_UP_S &&
	    (piece->asks > ASKS_MAX || strcmp(state, "unknown") == 0))
		why = "it does not come; is it being written, or the origin away?";
	if (why) {
		piece->failed = true;
		complain(piece->path, why);
	}
	r = why || strcmp(state, "complete") == 0;
	free(state);
	return r != 0;
}

/* Looks after all of them. True: one is over. */
static bool pieces_look(void)
{
	bool any = false;

	for (unsigned i = run.count; i-- > 0 && !stopped;) {
		if (!piece_ask(&run.pieces[i]))
			continue;
		piece_end(i);
		any = true;
	}
	show(false);
	return any;
}

/* Until there is room for another one of `bytes`, and the rate allows for it; 0: until none is left. */
static void pieces_wait(uint64_t bytes)
{
	unsigned ms = NAP_MIN_MS;

	while (!stopped) {
		bool room = bytes ? run.count < PIECES_MAX &&
					    (run.count == 0 || run.window + bytes <= WINDOW_BYTES) :
				    run.count == 0;
		bool early = bytes && run.limit &&
			     (double)run.sent > (now() - run.began) * (double)run.limit;

		if (room && !early)
			return;
		ms = pieces_look() ? NAP_MIN_MS : ms * 2 < NAP_MAX_MS ? ms * 2 : NAP_MAX_MS;
		nap(ms);
	}
}

static void piece_add(const char *path, uint64_t start, uint64_t end, bool last)
{
	struct piece piece = { .start = start, .end = end, .last = last };

	pieces_wait(end - start);
	piece.path = stopped ? NULL : strdup(path);
	if (!piece.path)
		return;
	piece.asked_at = now();
	run.sent += end - start;
	if (piece_ask(&piece) || stopped) {
		run.job.bytes += piece.failed || stopped ? 0 : end - start;
		run.sent -= end - start; /* it was here */
		run.job.files += last;
		free(piece.path);
		return;
	}
	run.pieces[run.count++] = piece;
	run.window += end - start;
	if (run.count % 16 == 0)
		(void)pieces_look();
}

static void file(const char *path, uint64_t size)
{
	uint64_t step = PIECE_BYTES;

	while (run.limit && step > run.limit && step > LIMITED_BYTES_MIN)
		step /= 2;
	run.job.found++;
	run.job.found_bytes += run.metadata_only ? 0 : size;
	if (run.metadata_only || size == 0) {
		run.job.files++;
		return;
	}
	for (uint64_t start = 0; start < size && !stopped; start += step)
		piece_add(path, start, size - start < step ? size : start + step,
			  size - start <= step);
}

/* ---- trees ---- */

struct names {
	char **items;
	size_t count, capacity;
};

static void names_finish(struct names *names)
{
	for (size_t i = 0; i < names->count; i++)
		free(names->items[i]);
	free(names->items);
}

static void names_add(struct names *names, const char *path, const char *name)
{
	char *item;

	if (names->count == names->capacity) {
		size_t capacity = names->capacity ? 2 * names->capacity : 64;
		char **items = realloc(names->items, capacity * sizeof(*items));

		if (!items)
			return;
		names->items = items;
		names->capacity = capacity;
	}
	if (asprintf(&item, "%s/%s", strcmp(path, "/") == 0 ? "" : path, name) >= 0)
		names->items[names->count++] = item;
}

/* All of its names; nothing is open afterwards. 0 or an errno. */
static int names_read(const char *path, struct names *ret_names)
{
	DIR *directory = opendir(path);
	struct dirent *entry;
	int error;

	if (!directory)
		return errno;
	while (errno = 0, (entry = readdir(directory)))
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			names_add(ret_names, path, entry->d_name);
	error = errno;
	closedir(directory);
	return error;
}

static int look_at(const char *path, struct stat *ret_stat)
{
	while (lstat(path, ret_stat) < 0) {
		int error = errno;

		if (!came_back())
			return error;
	}
	return 0;
}

static void ask_listing(const char *path)
{
	char name[64], *state;

	(void)snprintf(name, sizeof(name), "prefetch.%smetadata", run.priority);
	if (xattr_get(path, name, &state) == 0)
		free(state);
}

static void tree(const char *path, unsigned depth);

/* Files first; of directories the listings are asked for meanwhile. */
static void directory_tree(const char *path, unsigned depth)
{
	struct names names = { 0 }, below = { 0 };
	int error;
	struct stat st;

	while ((error = names_read(path, &names)) != 0 && came_back()) {
		names_finish(&names);
		names = (struct names){ 0 };
	}
	if (error && !stopped)
		complain(path, strerror(error));
	for (size_t i = 0; i < names.count && !stopped; i++) {
		error = look_at(names.items[i], &st);
		if (error == 0 && S_ISREG(st.st_mode)) {
			file(names.items[i], (uint64_t)st.st_size);
		} else if (error == 0 && S_ISDIR(st.st_mode)) {
			ask_listing(names.items[i]);
			names_add(&below, "", names.items[i] + 1);
		}
	}
	names_finish(&names);
	for (size_t i = 0; i < below.count && !stopped; i++)
		tree(below.items[i], depth + 1);
	names_finish(&below);
}

/* A path in the mount; other file systems that are mounted in it are left alone. */
static void tree(const char *path, unsigned depth)
{
	struct stat st;
	int error;

	if (stopped || depth > PATH_MAX / 2)
		return;
	error = look_at(path, &st);
	if (error && !stopped)
		complain(path, strerror(error));
	if (error)
		return;
	if (S_ISDIR(st.st_mode)) {
		char *version;

		if (xattr_get(path, "version", &version) != 0)
			return;
		free(version);
		directory_tree(path, depth);
	} else if (S_ISREG(st.st_mode)) {
		file(path, (uint64_t)st.st_size);
	}
}

/* ---- what is named ---- */

/* Absolute, to be freed. NULL: not on a mount, or on another one than the first. */
static char *place(const char *command, const char *path)
{
	char *real = realpath(path, NULL), *root = NULL;
	int r = real ? xattr_mount_root(real, &root) : -errno;

	if (r < 0) {
		fprintf(stderr, "leasehold %s: %s: %s\n", command, path,
			r == -ENODATA ? "it is not on a Leasehold mount" : strerror(-r));
	} else if (*run.job.root && strcmp(run.job.root, root) != 0) {
		fprintf(stderr, "leasehold %s: %s is on another mount than %s; name them in two "
			"commands\n", command, path, run.job.root);
		r = -EXDEV;
	} else {
		(void)snprintf(run.job.root, sizeof(run.job.root), "%s", root);
	}
	free(root);
	if (r < 0) {
		free(real);
		return NULL;
	}
	return real;
}

/* A path, or a pattern that the shell left alone. False: something of it is not there. */
static bool expand(struct names *paths, const char *text)
{
	struct stat st;
	glob_t found;
	bool good = true;
	char *path;

	memset(&found, 0, sizeof(found));
	if (lstat(text, &st) < 0 && strpbrk(text, "*?[") && glob(text, 0, NULL, &found) == 0) {
		for (size_t i = 0; i < found.gl_pathc; i++) {
			path = place("prefetch", found.gl_pathv[i]);
			if (path)
				names_add(paths, "", path + 1);
			good &= path != NULL;
			free(path);
		}
		globfree(&found);
		return good;
	}
	path = place("prefetch", text);
	if (path)
		names_add(paths, "", path + 1);
	free(path);
	return path != NULL;
}

static bool read_list(struct names *paths, const char *name)
{
	FILE *list = strcmp(name, "-") == 0 ? stdin : fopen(name, "re");
	char *line = NULL;
	size_t size = 0;
	ssize_t length;
	bool good = true;

	if (!list) {
		fprintf(stderr, "leasehold prefetch: %s: %s\n", name, strerror(errno));
		return false;
	}
	while ((length = getline(&line, &size, list)) > 0) {
		if (line[length - 1] == '\n')
			line[length - 1] = '\0';
		if (!*line)
			continue;
		/* Looked at when its turn comes: there may be millions. */
		if (*run.job.root && *line == '/' && !strpbrk(line, "*?[")) {
			names_add(paths, "", line + 1);
			continue;
		}
		good &= expand(paths, line);
	}
	free(line);
	if (list != stdin)
		fclose(list);
	return good;
}

/* Of a list it may be a link: what that leads to is meant. */
static void named(const char *path)
{
	struct stat st;
	char *real = NULL;

	if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode)) {
		real = place("prefetch", path);
		run.job.failed += !real;
		if (!real)
			return;
	}
	tree(real ? real : path, 0);
	free(real);
}

static void follow(const struct names *paths)
{
	const struct ordered ordered = {
		.paths = paths->items,
		.count = paths->count,
		.window = run.ahead ? run.ahead : ORDERED_WINDOW_BYTES,
		.limit = run.limit,
		.priority = run.priority,
		.job = &run.job,
		.stopped = &stopped,
		.came_back = came_back,
		.complain = complain,
		.show = show,
	};

	ordered_run(&ordered);
}

static int work(const struct names *paths)
{
	struct sigaction action = { .sa_handler = on_signal };

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	run.began = now();
	if (run.ordered)
		follow(paths);
	for (size_t i = 0; !run.ordered && i < paths->count && !stopped; i++)
		named(paths->items[i]);
	pieces_wait(0);
	run.job.state = stopped == 1 ? JOB_CANCELLED : stopped || run.job.failed ? JOB_FAILED : JOB_DONE;
	show(true);
	while (run.count > 0) {
		if (stopped == 1) {
			char *state;

			if (xattr_get(run.pieces[0].path, "prefetch.cancel", &state) == 0)
				free(state);
		}
		run.pieces[0].failed = true;
		piece_end(0);
	}
	return run.job.state == JOB_DONE ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* The parent: true. The child goes on by itself. */
static bool detach(void)
{
	int null, gate[2];
	pid_t pid;
	char byte;

	if (pipe2(gate, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
		perror("leasehold prefetch: cannot go to the background");
		exit(EXIT_FAILURE);
	}
	if (pid > 0) {
		run.job.pid = pid;
		job_write(&run.job);
		return true; /* the gate opens when this process ends */
	}
	close(gate[1]);
	(void)!read(gate[0], &byte, 1);
	close(gate[0]);
	setsid();
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
		dup2(null, STDERR_FILENO);
		close(null);
	}
	run.job.pid = getpid();
	return false;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	switch (key) {
	case 'f':
		run.list = arg;
		return 0;
	case 'm':
		run.metadata_only = true;
		return 0;
	case 'l':
		if (parse_bytes(arg, &run.limit) < 0 || run.limit == 0)
			argp_error(state, "a rate is bytes per second, like 50M, not %s", arg);
		return 0;
	case 'd':
		run.detach = true;
		return 0;
	case KEY_WAIT:
		run.wait = true;
		return 0;
	case 'o':
		run.ordered = true;
		return 0;
	case 'w':
		if (parse_bytes(arg, &run.ahead) < 0 || run.ahead == 0)
			argp_error(state, "a window is bytes, like 256M, not %s", arg);
		return 0;
	case 'p':
		if (strcmp(arg, "low") != 0 && strcmp(arg, "normal") != 0 && strcmp(arg, "high") != 0)
			argp_error(state, "a priority is low, normal or high, not %s", arg);
		run.priority = strcmp(arg, "low") == 0 ? "low." : strcmp(arg, "high") == 0 ? "high." : "";
		return 0;
	case ARGP_KEY_INIT:
		run.priority = "";
		return 0;
	case ARGP_KEY_SUCCESS: /* END does not come, since the arguments are not parsed here */
		if (run.ahead && !run.ordered)
			argp_error(state, "--window is for --ordered: how far to be ahead of who reads");
		if (run.ordered && run.metadata_only)
			argp_error(state, "--ordered is for files that are read, not for --metadata-only");
		if (run.wait && run.detach)
			argp_error(state, "--wait or --detach: one of them");
		return 0;
	case ARGP_KEY_ARG:
		return ARGP_ERR_UNKNOWN; /* all of them are taken from ARGP_KEY_ARGS */
	case ARGP_KEY_NO_ARGS:
		if (!run.list)
			argp_error(state, "prefetch what? Name a path on a mount");
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

int cmd_prefetch(int argc, char **argv)
{
	static const struct argp_option rows[] = {
		{ "from-list", 'f', "FILE", 0, "paths from FILE, one a line; -: from standard input", 0 },
		{ "metadata-only", 'm', NULL, 0, "names and attributes, and no bytes", 0 },
		{ "limit", 'l', "RATE", 0, "bytes per second at most, like 50M", 0 },
		{ "ordered", 'o', NULL, 0, "the files are read in this order: keep ahead of that", 0 },
		{ "window", 'w', "SIZE", 0, "with --ordered, how far, like 256M", 0 },
		{ "priority", 'p', "low|normal|high", 0, "before or behind what others wish for", 0 },
		{ "detach", 'd', NULL, 0, "go on in the background, and print the job's number", 0 },
		{ "wait", KEY_WAIT, NULL, 0, "until all of it is here (the default)", 0 },
		{ 0 },
	};
	static const struct argp argp = {
		.options = rows,
		.parser = parse,
		.args_doc = "PATH ...\nlist\nshow JOB\ncancel JOB",
		.doc = "Fetches files, and directories with all that is below, into this host's "
		       "cache.\vSee leasehold-prefetch(1).",
	};
	struct names paths = { 0 };
	bool good = true;
	int first, status, r;

	if (argp_parse(&argp, argc, argv, 0, &first, NULL) != 0)
		return EXIT_USAGE;
	if (first < argc && !run.list &&
	    (strcmp(argv[first], "list") == 0 || strcmp(argv[first], "show") == 0 ||
	     strcmp(argv[first], "cancel") == 0))
		return job_command(argc - first, argv + first);
	for (int i = first; i < argc; i++)
		good &= expand(&paths, argv[i]);
	if (run.list)
		good &= read_list(&paths, run.list);
	if (paths.count == 0) {
		names_finish(&paths);
		return good ? EXIT_SUCCESS : EXIT_FAILURE;
	}
	(void)snprintf(run.job.what, sizeof(run.job.what), "%s%s", paths.items[0],
		       paths.count > 1 ? " ..." : "");
	if (chdir("/") < 0)
		perror("leasehold prefetch: /");
	r = job_begin(&run.job);
	if (r < 0 && run.detach) {
		fprintf(stderr, "leasehold prefetch: no place to note the job in: %s; set "
			"XDG_STATE_HOME\n", strerror(-r));
		return EXIT_FAILURE;
	}
	if (run.detach && detach()) {
		printf("%u\n", run.job.number);
		names_finish(&paths);
		return good ? EXIT_SUCCESS : EXIT_FAILURE;
	}
	status = work(&paths);
	names_finish(&paths);
	return good ? status : EXIT_FAILURE;
}

/* ---- evict ---- */

static bool evict(const char *path, unsigned depth)
{
	struct names names = { 0 };
	struct stat st;
	char *text;
	bool good = true;
	int r = lstat(path, &st) < 0 ? -errno : 0;

	if (r == 0 && S_ISREG(st.st_mode)) {
		r = xattr_get(path, "evict", &text);
		if (r == 0)
			free(text);
	} else if (r == 0 && S_ISDIR(st.st_mode) && depth < PATH_MAX / 2) {
		r = xattr_get(path, "version", &text);
		if (r == -ENODATA)
			return true; /* mounted in it */
		if (r == 0) {
			free(text);
			r = -names_read(path, &names);
		}
		for (size_t i = 0; i < names.count; i++)
			good &= evict(names.items[i], depth + 1);
		names_finish(&names);
	}
	if (r < 0)
		fprintf(stderr, "leasehold evict: %s: %s\n", path, strerror(-r));
	return good && r == 0;
}

static error_t parse_evict(int key, char *arg, struct argp_state *state)
{
	(void)arg;
	if (key == ARGP_KEY_NO_ARGS)
		argp_error(state, "evict what? Name a path on a mount");
	return ARGP_ERR_UNKNOWN;
}

int cmd_evict(int argc, char **argv)
{
	static const struct argp argp = {
		.parser = parse_evict,
		.args_doc = "PATH ...",
		.doc = "Forgets what this host has cached of files, and of directories with all that is "
		       "below.\vSee leasehold-prefetch(1).",
	};
	bool good = true;
	int first;

	if (argp_parse(&argp, argc, argv, 0, &first, NULL) != 0)
		return EXIT_USAGE;
	for (int i = first; i < argc; i++) {
		char *path;

		*run.job.root = '\0';
		path = place("evict", argv[i]);
		good &= path && evict(path, 0);
		free(path);
	}
	return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
