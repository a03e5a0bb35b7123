#include "fs/mount/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "fs/mount/handover.h"
#include "fs/mount/log.h"
#include "fs/mount/member.h"

#define START_END_MAX_S 20 /* for a mount that is told to end before it is mounted */
#define CLOSE_MAX_S 20     /* for what is not on disk of the cache when nothing is mounted any more */

struct daemon {
	const struct mount_options *options; /* of the first member: those of the cache count */
	struct cache *cache;
	int wake_fd;
	int listener;              /* -1: none */
	pthread_t signal_thread;
	atomic_bool finished;      /* that thread is to end */
	struct pollfd *fds;        /* the main thread's */

	pthread_mutex_t lock;      /* before a member's */
	struct member *members;
	unsigned count;
	bool ending;               /* no more are taken */
	int ready_pipe;
	int relay;                 /* the socket to the daemon that serves us; or -1 */
	int first_result;
};

struct cache *daemon_cache(const struct daemon *d)
{
	return d->cache;
}

const struct mount_options *daemon_options(const struct daemon *d)
{
	return d->options;
}

unsigned daemon_member_count(struct daemon *d)
{
	unsigned count;

	pthread_mutex_lock(&d->lock);
	count = d->count;
	pthread_mutex_unlock(&d->lock);
	return count;
}

static void wake(struct daemon *d)
{
	uint64_t one = 1;

	(void)!write(d->wake_fd, &one, sizeof(one)); /* full: it is awake */
}

/* ---- signals ---- */

static void on_signal(struct daemon *d, int signal_number)
{
	bool any = false;

	pthread_mutex_lock(&d->lock);
	if (d->relay >= 0) {
		/* When it is gone, the main thread hears that as well. */
		(void)!handover_say(d->relay, HANDOVER_STOP, 0);
		pthread_mutex_unlock(&d->lock);
		return;
	}
	for (struct member *mb = d->members; mb; mb = mb->next)
		any |= member_is_mounted(mb);
	if (!any) {
		mount_log("error", "ended by signal %d before it was mounted", signal_number);
		_exit(EXIT_FAILURE);
	}
	d->ending = true;
	for (struct member *mb = d->members; mb; mb = mb->next) {
		member_stop(mb);
		if (!mb->end_by.ns && !member_is_mounted(mb))
			mb->end_by = instant_add(mount_now(), duration_ms(START_END_MAX_S * 1000));
	}
	pthread_mutex_unlock(&d->lock);
	wake(d);
}

static void *signals(void *context)
{
	struct daemon *d = context;
	sigset_t set;
	int signal_number;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	while (sigwait(&set, &signal_number) == 0 && !atomic_load(&d->finished))
		on_signal(d, signal_number);
	return NULL;
}

static void interrupt(int signal_number)
{
}

static int block_signals(void)
{
	struct sigaction action = { .sa_handler = interrupt }; /* of read(2): no SA_RESTART */
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	signal(SIGPIPE, SIG_IGN);
	sigaction(SIGUSR1, &action, NULL);
	return -pthread_sigmask(SIG_BLOCK, &set, NULL);
}

int daemon_create(const struct mount_options *options, int ready_pipe, struct daemon **ret_daemon)
{
	struct daemon *d = calloc(1, sizeof(*d));
	int r;

	if (!d)
		return -ENOMEM;
	d->options = options;
	d->ready_pipe = ready_pipe;
	d->relay = -1;
	d->listener = -1;
	d->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	d->fds = calloc(MEMBER_COUNT_MAX + 2, sizeof(*d->fds));
	pthread_mutex_init(&d->lock, NULL);
	r = d->wake_fd < 0 ? -errno : !d->fds ? -ENOMEM : block_signals();
	if (r == 0)
		r = -pthread_create(&d->signal_thread, NULL, signals, d);
	if (r < 0) {
		if (d->wake_fd >= 0)
			close(d->wake_fd);
		free(d->fds);
		free(d);
		return r;
	}
	*ret_daemon = d;
	return 0;
}

void daemon_destroy(struct daemon *d)
{
	atomic_store(&d->finished, true);
	(void)pthread_kill(d->signal_thread, SIGHUP);
	pthread_join(d->signal_thread, NULL);
	close(d->wake_fd);
	pthread_mutex_destroy(&d->lock);
	free(d->fds);
	free(d);
}

void daemon_relay(struct daemon *d, int socket)
{
	pthread_mutex_lock(&d->lock);
	d->relay = socket;
	pthread_mutex_unlock(&d->lock);
}

bool daemon_tell(struct daemon *d, int result)
{
	uint8_t byte = (uint8_t)(-result & 0x7f);
	bool told = true;
	int pipe_fd;

	pthread_mutex_lock(&d->lock);
	pipe_fd = d->ready_pipe;
	d->ready_pipe = -1;
	pthread_mutex_unlock(&d->lock);
	log_to_file(); /* until here errors went to whoever started it */
	if (pipe_fd < 0)
		return true;
	log_to_background();
	told = write(pipe_fd, &byte, 1) == 1;
	close(pipe_fd);
	return told;
}

/* ---- members ---- */

uint32_t daemon_number(struct daemon *d, struct member *mb)
{
	uint32_t number = 0;
	bool taken = true;

	pthread_mutex_lock(&d->lock);
	while (taken) {
		taken = false;
		for (struct member *other = d->members; other; other = other->next)
			taken |= other->number == number &&
				 other->mount.cache_space == mb->mount.cache_space;
		number += taken;
	}
	mb->number = number;
	pthread_mutex_unlock(&d->lock);
	return number;
}

void daemon_expect_end(struct daemon *d, struct member *mb, unsigned seconds)
{
	pthread_mutex_lock(&d->lock);
	if (!mb->lost)
		mb->end_by = instant_add(mount_now(), duration_ms(seconds * 1000));
	pthread_mutex_unlock(&d->lock);
	wake(d);
}

void daemon_member_ready(struct daemon *d, struct member *mb)
{
	pthread_mutex_lock(&d->lock);
	mb->ready = true;
	mb->relayed = mb->mount.elsewhere;
	pthread_mutex_unlock(&d->lock);
	wake(d);
}

void daemon_member_ended(struct daemon *d, struct member *mb, int result)
{
	pthread_mutex_lock(&d->lock);
	mb->finished = true;
	mb->result = result;
	mb->end_by.ns = 0;
	pthread_mutex_unlock(&d->lock);
	wake(d);
}

void daemon_give_up(struct daemon *d, struct member *mb)
{
	const struct handover failed = {
		.kind = HANDOVER_FAILED,
		.error = -EIO,
		.text = "the mount cannot be ended in good order; its guardian does the rest",
	};
	bool alone = true;

	pthread_mutex_lock(&d->lock);
	for (struct member *other = d->members; other; other = other->next)
		alone &= other == mb || other->lost || other->finished;
	mb->lost = true;
	mb->end_by.ns = 0;
	pthread_mutex_unlock(&d->lock);
	if (alone)
		_exit(EXIT_FAILURE);
	member_abandon(mb);
	if (mb->socket >= 0)
		(void)!handover_send(mb->socket, &failed, NULL, 0, NULL); /* or he is gone */
	wake(d);
}

/* Takes the member over, and starts its thread. */
static int add(struct daemon *d, struct member *mb)
{
	int r;

	pthread_mutex_lock(&d->lock);
	mb->daemon = d;
	mb->next = d->members;
	d->members = mb;
	d->count++;
	r = -pthread_create(&mb->thread, NULL, member_main, mb);
	if (r < 0) {
		d->members = mb->next;
		d->count--;
	}
	pthread_mutex_unlock(&d->lock);
	if (r < 0)
		member_destroy(mb);
	return r;
}

/* A command has connected. */
static void accept_one(struct daemon *d)
{
	const struct timeval patience = { .tv_sec = HANDOVER_ANSWER_S };
	struct handover full = { .kind = HANDOVER_FAILED, .error = -EMFILE };
	int fd = accept4(d->listener, NULL, NULL, SOCK_CLOEXEC);
	struct member *mb;
	bool ending;

	if (fd < 0)
		return;
	pthread_mutex_lock(&d->lock);
	ending = d->ending;
	pthread_mutex_unlock(&d->lock);
	if (ending || !handover_trusts(fd, NULL)) {
		close(fd); /* who wants a mount asks again, until this process has ended */
		return;
	}
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (d->count >= MEMBER_COUNT_MAX) {
		snprintf(full.text, sizeof(full.text), "the daemon that has the cache directory %s serves "
			 "%d mounts already; give this one a cache of its own", d->options->cache,
			 MEMBER_COUNT_MAX);
		(void)!handover_send(fd, &full, NULL, 0, NULL);
		close(fd);
		return;
	}
	mb = member_create(d, NULL);
	if (mb)
		mb->socket = fd;
	else
		close(fd);
	if (mb && add(d, mb) < 0)
		mount_log("warning", "no thread for another mount");
}

/* A STOP; or whoever stayed in front of it is gone; or a command has left it to the background. */
static void listen_to(struct member *mb)
{
	struct handover message;

	mb->relayed = handover_receive(mb->socket, 0, 0, &message) == 0;
	if (mb->relayed || mb->options.foreground)
		member_stop(mb);
}

/* Its thread has ended. */
static void part(struct daemon *d, struct member *mb)
{
	struct handover message = { .kind = mb->ready || mb->result == 0 ? HANDOVER_ENDED :
									   HANDOVER_FAILED,
				    .error = mb->result };
	struct member **at;

	pthread_join(mb->thread, NULL);
	pthread_mutex_lock(&d->lock);
	for (at = &d->members; *at != mb; at = &(*at)->next)
		;
	*at = mb->next;
	d->count--;
	pthread_mutex_unlock(&d->lock);
	if (mb->socket >= 0) {
		snprintf(message.text, sizeof(message.text), "%s", mb->failure);
		(void)!handover_send(mb->socket, &message, NULL, 0, NULL); /* or he is gone */
		if (mb->result < 0 && *mb->failure)
			mount_log("info", "a mount was asked for, and is not there: %s", mb->failure);
	}
	if (mb->first) {
		d->first_result = mb->result;
		if (mb->result < 0 && d->members)
			(void)daemon_tell(d, mb->result);
	}
	member_destroy(mb);
}

/* One that has ended, or is late with that; NULL: none. `ret_wait_ms`: until the next could be late. */
static struct member *look(struct daemon *d, struct instant now, bool *ret_finished, int *ret_wait_ms)
{
	struct member *due = NULL;
	int wait_ms = -1;

	pthread_mutex_lock(&d->lock);
	for (struct member *mb = d->members; mb; mb = mb->next) {
		uint64_t left = instant_until(now, mb->end_by).ns / NS_PER_MS + 1;

		if (mb->finished || (mb->end_by.ns && !instant_before(now, mb->end_by))) {
			due = mb;
			*ret_finished = mb->finished;
		}
		if (mb->end_by.ns && (wait_ms < 0 || left < (uint64_t)wait_ms))
			wait_ms = (int)left;
	}
	pthread_mutex_unlock(&d->lock);
	*ret_wait_ms = wait_ms;
	return due;
}

/* Nobody is left but those that were given up. */
static bool only_lost(struct daemon *d)
{
	bool only = true;

	pthread_mutex_lock(&d->lock);
	for (struct member *mb = d->members; mb; mb = mb->next)
		only &= mb->lost;
	pthread_mutex_unlock(&d->lock);
	return only;
}

/* Waits for a command, a STOP, or a change of a member. */
static void wait_for_something(struct daemon *d, int timeout_ms)
{
	struct member *members[MEMBER_COUNT_MAX];
	unsigned count = 0;
	uint64_t ignored;

	/* Only this thread takes members out of the list. */
	pthread_mutex_lock(&d->lock);
	for (struct member *mb = d->members; mb; mb = mb->next)
		if (mb->relayed)
			members[count++] = mb;
	pthread_mutex_unlock(&d->lock);
	d->fds[0] = (struct pollfd){ d->wake_fd, POLLIN, 0 };
	d->fds[1] = (struct pollfd){ d->listener, POLLIN, 0 };
	for (unsigned i = 0; i < count; i++)
		d->fds[2 + i] = (struct pollfd){ members[i]->socket, POLLIN, 0 };
	if (poll(d->fds, 2 + count, timeout_ms) <= 0)
		return;
	if (d->fds[0].revents)
		(void)!read(d->wake_fd, &ignored, sizeof(ignored));
	for (unsigned i = 0; i < count; i++)
		if (d->fds[2 + i].revents)
			listen_to(members[i]);
	if (d->fds[1].revents)
		accept_one(d);
}

static void close_is_late(int signal_number)
{
	static const char text[] = "leasehold mount: error: the cache takes too long to close; what is not "
				   "on disk of it is fetched again\n";

	(void)!write(STDERR_FILENO, text, sizeof(text) - 1);
	_exit(EXIT_FAILURE);
}

static void close_cache(struct daemon *d)
{
	if (d->listener >= 0)
		handover_unlisten(d->options->cache, d->listener);
	signal(SIGALRM, close_is_late);
	alarm(CLOSE_MAX_S);
	cache_close(d->cache);
	alarm(0);
}

int daemon_run(struct daemon *d, struct member *first, struct cache *cache)
{
	struct member *due;
	bool finished = false;
	int r, wait_ms;

	d->cache = cache;
	d->listener = handover_listen(d->options->cache);
	if (d->listener < 0)
		mount_log("warning", "no other mount can share the cache: %s", strerror(-d->listener));
	first->first = true;
	r = add(d, first);
	d->first_result = r;
	while (r == 0 && d->members) {
		due = look(d, mount_now(), &finished, &wait_ms);
		if (due && finished) {
			part(d, due);
		} else if (due) {
			mount_log("error", "the end of the mount on %s takes too long; the guardian does "
				  "the rest", due->mount.options ? due->mount.options->mountpoint : "?");
			daemon_give_up(d, due);
		} else if (only_lost(d)) {
			_exit(EXIT_FAILURE);
		} else {
			wait_for_something(d, wait_ms);
		}
	}
	pthread_mutex_lock(&d->lock);
	d->ending = true;
	pthread_mutex_unlock(&d->lock);
	close_cache(d);
	return d->first_result;
}
