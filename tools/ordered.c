#include "tools/ordered.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "prefetch/pace.h"
#include "tools/xattr.h"

#define PIECE_BYTES (UINT64_C(4) << 20)
#define LOOKERS 32u	/* names that are looked up at a time */
#define LOOKED_MAX 512u /* ahead of what was asked for */
#define NAP_MIN_MS 20u
#define NAP_MAX_MS 100u
#define IDLE_MAX_S (6 * 3600.0) /* nothing was read for so long: nobody reads it any more */

/* A name of the list that is looked up. */
struct looked {
	bool done;
	int error;
	uint64_t size;
};

struct piece {
	size_t index; /* in the list */
	uint64_t start, end;
	bool last; /* of its file */
	bool left; /* the mount was told */
};

struct run {
	const struct ordered *o;
	uint64_t number; /* of the job, for the mount */
	struct pace pace;
	struct piece pieces[PACE_PIECES_MAX];
	size_t index; /* next of the list, from `at` on */
	uint64_t at, sent;
	double began, used_at;

	pthread_mutex_t lock;
	pthread_cond_t wake, found;
	size_t look_next, look_end;
	bool end;
	struct looked looked[LOOKED_MAX];
};

static double now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static void nap(unsigned ms)
{
	const struct timespec time = { 0, (long)ms * 1000000L };

	nanosleep(&time, NULL);
}

/* ---- names ---- */

static struct looked examine(const char *path)
{
	struct looked looked = { .done = true };
	struct stat st;

	if (stat(path, &st) < 0)
		looked.error = errno;
	else if (!S_ISREG(st.st_mode))
		looked.error = S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
	else
		looked.size = (uint64_t)st.st_size;
	return looked;
}

static void *looker(void *context)
{
	struct run *run = context;
	char name[48], *state;

	/* What it waits for is nothing that a program waits for. */
	(void)snprintf(name, sizeof(name), "prefetch.worker-%" PRIu64, run->number);
	if (xattr_get(run->o->job->root, name, &state) == 0)
		free(state);
	pthread_mutex_lock(&run->lock);
	while (!run->end) {
		struct looked looked;
		size_t index;

		if (run->look_next == run->look_end) {
			pthread_cond_wait(&run->wake, &run->lock);
			continue;
		}
		index = run->look_next++;
		pthread_mutex_unlock(&run->lock);
		looked = examine(run->o->paths[index]);
		pthread_mutex_lock(&run->lock);
		run->looked[index % LOOKED_MAX] = looked;
		pthread_cond_signal(&run->found);
	}
	pthread_mutex_unlock(&run->lock);
	return NULL;
}

/* What is known of the next name of the list. False: not yet; then it is waited for a moment. */
static bool look_up(struct run *run, struct looked *ret_looked)
{
	size_t end = run->o->count - run->index < LOOKED_MAX ? run->o->count : run->index + LOOKED_MAX;
	struct looked *looked = &run->looked[run->index % LOOKED_MAX];
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += NAP_MIN_MS * 1000000L;
	until.tv_sec += until.tv_nsec / 1000000000L;
	until.tv_nsec %= 1000000000L;
	pthread_mutex_lock(&run->lock);
	if (run->look_end < end)
		pthread_cond_broadcast(&run->wake);
	for (; run->look_end < end; run->look_end++)
		run->looked[run->look_end % LOOKED_MAX].done = false;
	if (!looked->done)
		(void)pthread_cond_timedwait(&run->found, &run->lock, &until);
	*ret_looked = *looked;
	pthread_mutex_unlock(&run->lock);
	return ret_looked->done;
}

/* ---- what the mount is asked ---- */

enum said { SAID_AHEAD, SAID_USED, SAID_NOT_NOW, SAID_FAILED };

static enum said ask(struct run *run, const struct piece *piece, bool held)
{
	const struct ordered *o = run->o;
	const char *path = o->paths[piece->index];
	char name[96], follow[32] = "", *state;
	enum said said = SAID_AHEAD;
	int r;

	if (held)
		(void)snprintf(follow, sizeof(follow), "follow-%" PRIu64 ".", run->number);
	(void)snprintf(name, sizeof(name), "prefetch.%s%s%" PRIu64 "-%" PRIu64, o->priority, follow,
		       piece->start, piece->end);
	r = xattr_get(path, name, &state);
	if (r < 0) {
		if (o->came_back())
			return SAID_NOT_NOW;
		if (!*o->stopped)
			o->complain(path, r == -ENODATA ? "the mount is of a version without lists" :
							  strerror(-r));
		return SAID_FAILED;
	}
	if (strcmp(state, "off") == 0) {
		o->complain(path, "the mount was made with --prefetch=off");
		*o->stopped = 2;
		said = SAID_FAILED;
	}
	if (strcmp(state, "refused") == 0) {
		o->complain(path, "its policy says admit=never; leasehold stat says which");
		said = SAID_FAILED;
	}
	if (strcmp(state, "used") == 0)
		said = SAID_USED;
	else if (strcmp(state, "full") == 0 || strcmp(state, "busy") == 0)
		said = SAID_NOT_NOW;
	free(state);
	return said;
}

/* `path` NULL: the job ends. */
static void leave(struct run *run, const char *path)
{
	char name[48], *state;

	(void)snprintf(name, sizeof(name), "prefetch.leave-%" PRIu64, run->number);
	if (xattr_get(path ? path : run->o->job->root, name, &state) == 0)
		free(state);
}

/* ---- the list ---- */

static void next_file(struct run *run, bool over)
{
	run->o->job->files += over;
	run->index++;
	run->at = 0;
}

/* What is read next of the same name, further down the list, is another time. */
static void piece_leave(struct run *run, struct piece *piece)
{
	if (piece->last && !piece->left)
		leave(run, run->o->paths[piece->index]);
	piece->left = true;
}

/* With those of the file that are before it: the mount forgets what was read when the file is left. */
static void used(struct run *run, uint64_t number)
{
	struct piece *piece = &run->pieces[number % PACE_PIECES_MAX];

	for (uint64_t start = piece->start;; number--) {
		struct piece *at = &run->pieces[number % PACE_PIECES_MAX];

		if (number < run->pace.first || at->index != piece->index || at->start > start)
			break;
		if (!pace_is_used(&run->pace, number))
			run->o->job->bytes += at->end - at->start;
		pace_used(&run->pace, number);
		if (number == 0)
			break;
	}
	run->used_at = now();
	piece_leave(run, piece);
}

static const char *why_not(int error)
{
	return error == EISDIR ? "it is a directory; an ordered list names files" :
	       error == EINVAL ? "it is no file" :
				 strerror(error);
}

/* The next piece of the list. False: not now. */
static bool ask_next(struct run *run)
{
	const struct ordered *o = run->o;
	struct piece piece = { .index = run->index, .start = run->at };
	struct looked looked;
	enum said said;
	uint64_t number;

	if (!look_up(run, &looked))
		return false;
	if (run->at == 0) {
		if (looked.error && o->came_back()) { /* it is looked up once more */
			looked = examine(o->paths[run->index]);
			pthread_mutex_lock(&run->lock);
			run->looked[run->index % LOOKED_MAX] = looked;
			pthread_mutex_unlock(&run->lock);
			return false;
		}
		if (looked.error && !*o->stopped)
			o->complain(o->paths[run->index], why_not(looked.error));
		if (looked.error || looked.size == 0) {
			next_file(run, true);
			return true;
		}
	}
	piece.end = looked.size - run->at < PIECE_BYTES ? looked.size : run->at + PIECE_BYTES;
	piece.last = piece.end == looked.size;
	if (!pace_may(&run->pace, piece.end - piece.start) ||
	    (o->limit && (double)run->sent > (now() - run->began) * (double)o->limit))
		return false;
	said = ask(run, &piece, true);
	if (said == SAID_NOT_NOW && run->pace.bytes == 0) /* others hold everything: it goes on without */
		said = ask(run, &piece, false);
	if (said == SAID_NOT_NOW)
		return false;
	if (run->at == 0)
		o->job->found_bytes += looked.size;
	if (said == SAID_FAILED) {
		next_file(run, true);
		return true;
	}
	number = pace_ask(&run->pace, piece.end - piece.start);
	run->pieces[number % PACE_PIECES_MAX] = piece;
	run->sent += piece.end - piece.start;
	run->at = piece.end;
	if (piece.last)
		next_file(run, false);
	if (said == SAID_USED)
		used(run, number);
	return true;
}

/* True: something was read. */
static bool look(struct run *run)
{
	bool any = false;
	uint64_t number;

	/* The end moves with what is found. */
	for (number = run->pace.first; number < pace_look_end(&run->pace) && !*run->o->stopped; number++) {
		if (pace_is_used(&run->pace, number))
			continue;
		switch (ask(run, &run->pieces[number % PACE_PIECES_MAX], true)) {
		case SAID_USED:
		case SAID_FAILED:
			used(run, number);
			any = true;
			break;
		case SAID_AHEAD:
		case SAID_NOT_NOW:
			break;
		}
	}
	while (pace_over(&run->pace, &number)) {
		struct piece *piece = &run->pieces[number % PACE_PIECES_MAX];

		piece_leave(run, piece);
		run->o->job->files += piece->last;
		any = true;
	}
	return any;
}

static void follow(struct run *run)
{
	const struct ordered *o = run->o;
	unsigned ms = NAP_MIN_MS;

	while (!*o->stopped && (run->index < o->count || run->pace.first < run->pace.next)) {
		bool any = false;

		while (!*o->stopped && run->index < o->count && ask_next(run))
			any = true;
		any |= look(run);
		o->show(false);
		if (now() - run->used_at > IDLE_MAX_S) {
			o->complain(o->paths[run->index < o->count ? run->index : o->count - 1],
				    "nothing of the list was read for hours");
			return;
		}
		ms = any ? NAP_MIN_MS : ms * 2 < NAP_MAX_MS ? ms * 2 : NAP_MAX_MS;
		nap(ms);
	}
}

static struct run *left_behind;

void ordered_run(const struct ordered *o)
{
	struct run *run = calloc(1, sizeof(*run));
	pthread_t threads[LOOKERS];
	uint32_t random = 0;
	unsigned count = 0;

	if (!run || getrandom(&random, sizeof(random), 0) != sizeof(random)) {
		o->complain(o->job->root, "no memory for the job");
		free(run);
		return;
	}
	run->o = o;
	run->number = random;
	run->began = run->used_at = now();
	o->job->found = o->count;
	pace_init(&run->pace, o->window);
	pthread_mutex_init(&run->lock, NULL);
	pthread_cond_init(&run->wake, NULL);
	pthread_cond_init(&run->found, NULL);
	while (count < LOOKERS && pthread_create(&threads[count], NULL, looker, run) == 0)
		count++;
	if (count > 0)
		follow(run);
	else
		o->complain(o->job->root, "no thread for the job");
	pthread_mutex_lock(&run->lock);
	run->end = true;
	pthread_cond_broadcast(&run->wake);
	pthread_mutex_unlock(&run->lock);
	leave(run, NULL);
	if (*o->stopped) { /* a name that is looked up may wait for the origin: the process does not */
		while (count > 0)
			pthread_detach(threads[--count]);
		left_behind = run; /* they have it until the process ends */
		return;
	}
	while (count > 0)
		pthread_join(threads[--count], NULL);
	pthread_cond_destroy(&run->wake);
	pthread_cond_destroy(&run->found);
	pthread_mutex_destroy(&run->lock);
	free(run);
}
