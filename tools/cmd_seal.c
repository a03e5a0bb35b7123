/*
 * cmd_seal - leasehold seal and leasehold unseal: what may not be modified any more.
 *
 * A seal is an extended attribute that the origin answers for (lease/PROTOCOL.md section 11): setting it
 * seals one inode, removing it unseals it. A tree is sealed from its top: once a directory is sealed no
 * name comes to be in it or goes, so that what is found below is all there is. What is no directory is
 * worked on by several threads meanwhile.
 */
#include <argp.h>
#include <errno.h>
#include <ftw.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "tools/cmd.h"
#include "tools/xattr.h"

/* Directories that are open at a time while a tree is walked. */
#define WALK_DEPTH 64
/* A host that is silent holds a change up for a lease term, a call in a directory ends after 30 s. */
#define TRIES_MAX 3
#define VALUE_BYTES_MAX 512
/* A seal waits for the origin's disk, and for hosts that have leases: many do so at a time. */
#define WORKERS 16
#define QUEUE_MAX 256

enum what { SEAL, UNSEAL, LIST };

#define DEAD_MAX 256
#define NAMES_BYTES 16384
/* What hosts that do not answer may rely on is asked for again after this. */
#define AGAIN_MS 200

/* nftw(3) hands nothing on. */
static struct {
	const char *command;
	enum what what;
	_Atomic bool failed;
	char term[24]; /* in ms; empty: the usual one */
	const char *dead[DEAD_MAX];
	unsigned dead_count;
	_Atomic bool said; /* that it waits, and for whom */
} walk;

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	char *paths[QUEUE_MAX];
	unsigned first, count;
	bool closed;
	pthread_t workers[WORKERS];
	unsigned worker_count;
} queue = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static void complain(const char *path, int error)
{
	const char *why = strerror(error);

	if (error == EPERM)
		why = "not allowed; only root of a host that the origin trusts may do that";
	else if (error == EOPNOTSUPP)
		why = "the origin's file system has no trusted.* attributes, so nothing in it can be sealed";
	fprintf(stderr, "leasehold %s: %s: %s\n", walk.command, path, why);
	walk.failed = true;
}

/*
 * Hosts that do not answer may rely on the seal (lease/PROTOCOL.md 11.4): those of them that are dead are
 * declared so. Says once for whom it waits.
 */
static void wait_for_silent(const char *path)
{
	const struct timespec pause = { 0, AGAIN_MS * 1000000L };
	char names[NAMES_BYTES + 1];
	ssize_t length = lgetxattr(path, XATTR_SILENT, names, NAMES_BYTES);
	bool dead = false;

	names[length > 0 ? length : 0] = '\0';
	for (unsigned i = 0; i < walk.dead_count; i++)
		for (const char *at = names; (at = strstr(at, walk.dead[i])); at++) {
			size_t bytes = strlen(walk.dead[i]);

			if ((at == names || at[-1] == '\n') && at[bytes] == '\n') {
				dead |= lsetxattr(path, XATTR_DEAD, walk.dead[i], bytes, 0) == 0;
				break;
			}
		}
	if (dead)
		return;
	if (!walk.said && length > 0) {
		walk.said = true;
		for (char *at = names; *at; at++)
			if (*at == '\n')
				*at = at[1] ? ' ' : '\0';
		fprintf(stderr, "leasehold %s: waiting for the term of hosts that do not answer: %s\n",
			walk.command, *names ? names : "(without a name)");
	}
	nanosleep(&pause, NULL);
}

/* 0 or an errno. Doing it again changes nothing. */
static int change(const char *path)
{
	int error = 0;

	for (int i = 0; i < TRIES_MAX; i++) {
		int r = walk.what == SEAL ?
				lsetxattr(path, XATTR_SEAL, walk.term, strlen(walk.term), 0) :
				lremovexattr(path, XATTR_SEAL);

		error = r < 0 ? errno : 0;
		if (error == EBUSY) {
			wait_for_silent(path);
			i--;
			continue;
		}
		if (error == ENODATA) /* it has no seal: so much the better */
			error = 0;
		if (error != EIO && error != ETIMEDOUT)
			break;
	}
	return error;
}

static void list(const char *path)
{
	char value[VALUE_BYTES_MAX + 1], when[64] = "?";
	ssize_t length = lgetxattr(path, XATTR_SEAL, value, VALUE_BYTES_MAX);
	char *at_time;
	struct tm tm;
	time_t at;

	if (length < 0) {
		if (errno != ENODATA && errno != EOPNOTSUPP)
			complain(path, errno);
		return;
	}
	value[length] = '\0';
	at_time = strchr(value, ' '); /* a version, the inode, the time, the term */
	at_time = at_time ? strchr(at_time + 1, ' ') : NULL;
	at = at_time ? (time_t)strtoll(at_time + 1, NULL, 10) : 0;
	if (localtime_r(&at, &tm))
		(void)strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
	printf("%s  %s\n", when, path);
}

static void change_or_complain(const char *path)
{
	int error = change(path);

	if (error)
		complain(path, error);
}

static void *worker(void *context)
{
	pthread_mutex_lock(&queue.lock);
	for (;;) {
		char *path;

		while (queue.count == 0 && !queue.closed)
			pthread_cond_wait(&queue.changed, &queue.lock);
		if (queue.count == 0)
			break;
		path = queue.paths[queue.first];
		queue.first = (queue.first + 1) % QUEUE_MAX;
		queue.count--;
		pthread_cond_broadcast(&queue.changed);
		pthread_mutex_unlock(&queue.lock);
		change_or_complain(path);
		free(path);
		pthread_mutex_lock(&queue.lock);
	}
	pthread_mutex_unlock(&queue.lock);
	return context;
}

static void queue_open(void)
{
	queue.closed = false;
	for (queue.worker_count = 0; queue.worker_count < WORKERS; queue.worker_count++)
		if (pthread_create(&queue.workers[queue.worker_count], NULL, worker, NULL) != 0)
			break;
}

/* False: there is nobody to do it. */
static bool queue_add(const char *path)
{
	char *copy = queue.worker_count ? strdup(path) : NULL;

	if (!copy)
		return false;
	pthread_mutex_lock(&queue.lock);
	while (queue.count == QUEUE_MAX)
		pthread_cond_wait(&queue.changed, &queue.lock);
	queue.paths[(queue.first + queue.count) % QUEUE_MAX] = copy;
	queue.count++;
	pthread_cond_broadcast(&queue.changed);
	pthread_mutex_unlock(&queue.lock);
	return true;
}

/* All that was added is done. */
static void queue_close(void)
{
	pthread_mutex_lock(&queue.lock);
	queue.closed = true;
	pthread_cond_broadcast(&queue.changed);
	pthread_mutex_unlock(&queue.lock);
	for (unsigned i = 0; i < queue.worker_count; i++)
		pthread_join(queue.workers[i], NULL);
	queue.worker_count = 0;
}

static int visit(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st;
	(void)at;
	if (type == FTW_NS || type == FTW_DNR)
		complain(path, EACCES);
	if (type == FTW_NS)
		return 0;
	if (walk.what == LIST) {
		list(path);
		return 0;
	}
	if (type == FTW_D || type == FTW_DP || type == FTW_DNR || !queue_add(path))
		change_or_complain(path);
	return 0;
}

/* 0, -ENODATA, -errno. A link that leads to a mount is not on it, nor what a link of it leads to. */
static int check_mount(const char *path)
{
	struct stat here, there;
	char *root;
	int r = xattr_mount_root(path, &root);

	if (r < 0)
		return r;
	if (lstat(path, &here) < 0 || lstat(root, &there) < 0)
		r = -errno;
	else if (here.st_dev != there.st_dev)
		r = -ENODATA;
	free(root);
	return r;
}

static void run_path(const char *path)
{
	int r = check_mount(path);

	if (r == -ENODATA) {
		fprintf(stderr, "leasehold %s: %s is not on a Leasehold mount\n", walk.command,
			path);
		walk.failed = true;
		return;
	}
	if (r < 0) {
		complain(path, -r);
		return;
	}
	/* Of what is mounted inside nothing is touched. Top down to seal; the other way to unseal. */
	queue_open();
	r = nftw(path, visit, WALK_DEPTH,
		 FTW_PHYS | FTW_MOUNT | (walk.what == UNSEAL ? FTW_DEPTH : 0));
	if (r < 0)
		complain(path, errno);
	queue_close();
}

/* Days, or with a suffix seconds, minutes, hours, days. */
static bool parse_term(const char *text)
{
	static const struct {
		const char *suffix;
		double seconds;
	} units[] = { { "", 86400 }, { "d", 86400 }, { "h", 3600 }, { "m", 60 }, { "s", 1 } };
	char *end;
	double value = strtod(text, &end);

	for (size_t i = 0; end != text && i < sizeof(units) / sizeof(units[0]); i++) {
		double seconds = value * units[i].seconds;

		if (strcmp(end, units[i].suffix) != 0 || !(seconds >= 1 && seconds <= 45 * 86400.0))
			continue;
		(void)snprintf(walk.term, sizeof(walk.term), "%llu",
			       (unsigned long long)(seconds * 1000));
		return true;
	}
	return false;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	switch (key) {
	case 'l':
		walk.what = LIST;
		return 0;
	case 't':
		if (!parse_term(arg))
			argp_error(state, "a term is between 1s and 45 days, like 7, 0.5, 12h or 90s, "
				   "not %s", arg);
		return 0;
	case 'd':
		if (walk.dead_count == DEAD_MAX)
			argp_error(state, "too many hosts");
		walk.dead[walk.dead_count++] = arg;
		return 0;
	case ARGP_KEY_ARG:
		return ARGP_ERR_UNKNOWN; /* all of them are taken from ARGP_KEY_ARGS */
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "%s what? Name a path on a mount", walk.command);
		return 0;
	}
	return ARGP_ERR_UNKNOWN;
}

static int run(const struct argp *argp, int argc, char **argv)
{
	int first;

	if (argp_parse(argp, argc, argv, 0, &first, NULL) != 0)
		return EXIT_USAGE;
	if (geteuid() != 0) {
		fprintf(stderr, "leasehold %s: only root may seal and see seals; what is known of "
			"one file everybody can ask for: leasehold stat %s\n", walk.command,
			argv[first]);
		return EXIT_FAILURE;
	}
	for (int i = first; i < argc; i++)
		run_path(argv[i]);
	return walk.failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

int cmd_seal(int argc, char **argv)
{
	static const struct argp_option rows[] = {
		{ "list", 'l', NULL, 0, "only print what is sealed, and since when", 0 },
		{ "term", 't', "DAYS", 0, "how long a host that is cut off may go on with it; 7 unless "
		  "said otherwise", 0 },
		{ 0 },
	};
	static const struct argp argp = {
		.options = rows,
		.parser = parse,
		.args_doc = "PATH ...",
		.doc = "Seals files, and directories with all that is below: nothing of them can be "
		       "modified until they are unsealed, and the bytes of a file that was sealed "
		       "once never.\vSee leasehold-seal(1).",
	};

	walk.command = "seal";
	walk.what = SEAL;
	return run(&argp, argc, argv);
}

int cmd_unseal(int argc, char **argv)
{
	static const struct argp_option rows[] = {
		{ "dead", 'd', "HOST", 0, "this host does not run any more: do not wait for it", 0 },
		{ 0 },
	};
	static const struct argp argp = {
		.options = rows,
		.parser = parse,
		.args_doc = "PATH ...",
		.doc = "Takes seals away: of files, and of directories with all that is below.\v"
		       "See leasehold-seal(1).",
	};

	walk.command = "unseal";
	walk.what = UNSEAL;
	return run(&argp, argc, argv);
}
