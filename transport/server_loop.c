/* An event loop: one thread, one epoll, its connections, and what others post to it. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport/server_internal.h"

#define EVENTS_MAX  64
#define ACCEPTS_MAX 16 /* a turn */

/* The loop whose thread this is. */
static _Thread_local struct loop *this_loop;

int loop_init(struct loop *l, struct server *s)
{
	struct epoll_event event = { .events = EPOLLIN };

	l->server = s;
	l->posts_end = &l->posts;
	l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	l->plain = malloc(PLAIN_BYTES);
	l->input = malloc(READ_BYTES);
	pthread_mutex_init(&l->lock, NULL);
	if (l->epoll_fd < 0 || l->wake_fd < 0)
		return -errno;
	if (!l->plain || !l->input)
		return -ENOMEM;
	event.data.ptr = &l->wake_fd;
	return epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, l->wake_fd, &event) < 0 ? -errno : 0;
}

void loop_wake(struct loop *l)
{
	uint64_t one = 1;

	(void)!write(l->wake_fd, &one, sizeof(one)); /* full: it is awake already */
}

bool loop_post(struct loop *l, struct loop_post *post)
{
	bool wake;

	post->next = NULL;
	pthread_mutex_lock(&l->lock);
	if (l->stopped) {
		pthread_mutex_unlock(&l->lock);
		return false;
	}
	*l->posts_end = post;
	l->posts_end = &post->next;
	wake = !l->signalled;
	l->signalled = true;
	pthread_mutex_unlock(&l->lock);
	/* On its own thread the loop does not sleep over it: no system call is needed. */
	if (this_loop == l)
		l->posted_to_self = true;
	else if (wake)
		loop_wake(l);
	return true;
}

/* Runs what was posted; true when it is to stop. */
static bool run_posts(struct loop *l)
{
	struct loop_post *post;
	bool stopping;

	l->posted_to_self = false;
	pthread_mutex_lock(&l->lock);
	post = l->posts;
	l->posts = NULL;
	l->posts_end = &l->posts;
	l->signalled = false;
	stopping = l->stopping;
	pthread_mutex_unlock(&l->lock);
	while (post) {
		struct loop_post *next = post->next; /* run() may free it or post it again */

		post->run(post);
		post = next;
	}
	return stopping;
}

void loop_mark_dirty(struct loop *l, struct connection *c)
{
	if (c->is_dirty)
		return;
	c->is_dirty = true;
	c->dirty_next = l->dirty;
	l->dirty = c;
}

/* The only place that frees connections: nothing else in a turn can meet a stale one. */
static void flush_dirty(struct loop *l)
{
	while (l->dirty) {
		struct connection *c = l->dirty;

		l->dirty = c->dirty_next;
		c->is_dirty = false;
		if (!c->dead)
			connection_flush(c);
		if (c->dead && !c->is_dirty)
			connection_destroy(c);
	}
}

static struct loop *least_loaded(struct server *s)
{
	struct loop *least = &s->loops[0];

	for (unsigned i = 1; i < s->loop_count; i++)
		if (s->loops[i].connection_count < least->connection_count)
			least = &s->loops[i];
	return least;
}

static void accept_connections(struct loop *l)
{
	struct server *s = l->server;

	for (unsigned i = 0; i < ACCEPTS_MAX; i++) {
		int fd = accept4(s->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		struct connection *c;

		/* Out of descriptors: the kernel holds them, the next turn tries again. */
		if (fd < 0)
			return;
		if (s->connection_count >= s->connection_count_max || s->draining) {
			s->counters.refused++;
			close(fd);
			continue;
		}
		c = connection_create(s, least_loaded(s), fd);
		if (!c)
			s->counters.refused++;
		else if (!loop_post(c->loop, &c->post))
			connection_destroy(c);
	}
}

static void tick(struct loop *l)
{
	if (instant_until(l->last_tick, l->now).ns < TICK_MS * NS_PER_MS)
		return;
	l->last_tick = l->now;
	for (struct connection *c = l->connections; c; c = c->next)
		connection_tick(c);
}

static void handle_event(struct loop *l, const struct epoll_event *event)
{
	uint64_t count;

	if (event->data.ptr == &l->wake_fd)
		(void)!read(l->wake_fd, &count, sizeof(count));
	else if (event->data.ptr == &l->server->listen_fd)
		accept_connections(l);
	else
		connection_ready(event->data.ptr, event->events);
}

/* Draining has begun: every connection is told, and those without work are closed. */
static void begin_drain(struct loop *l)
{
	if (l->drain_begun || !l->server->draining)
		return;
	l->drain_begun = true;
	for (struct connection *c = l->connections; c; c = c->next)
		loop_mark_dirty(l, c);
}

static int wait_ms(const struct loop *l)
{
	if (l->posted_to_self)
		return 0;
	return l->connections ? (int)TICK_MS : -1;
}

/* Cuts everything loose; what is posted from now on is disposed of by who posts. */
static void close_down(struct loop *l)
{
	struct loop_post *post;

	for (struct connection *c = l->connections; c; c = c->next) {
		c->dead = true;
		loop_mark_dirty(l, c);
	}
	flush_dirty(l);
	pthread_mutex_lock(&l->lock);
	l->stopped = true;
	post = l->posts;
	l->posts = NULL;
	pthread_mutex_unlock(&l->lock);
	/* Nothing has a connection any more, except one that was just being handed over. */
	while (post) {
		struct loop_post *next = post->next;

		post->run(post);
		post = next;
	}
	for (struct connection *c = l->connections; c; c = c->next) {
		c->dead = true;
		loop_mark_dirty(l, c);
	}
	flush_dirty(l);
}

static void *run(void *context)
{
	struct loop *l = context;
	struct epoll_event events[EVENTS_MAX];
	bool stopping;

	this_loop = l;
	l->now = l->last_tick = clock_now();
	do {
		int count = epoll_wait(l->epoll_fd, events, EVENTS_MAX, wait_ms(l));

		l->now = clock_now();
		for (int i = 0; i < count; i++)
			handle_event(l, &events[i]);
		/* Handlers that answer at once post to this very loop: their answers leave now. */
		stopping = run_posts(l);
		begin_drain(l);
		tick(l);
		flush_dirty(l);
	} while (!stopping);
	close_down(l);
	this_loop = NULL;
	return NULL;
}

int loop_start(struct loop *l)
{
	sigset_t all;
	sigset_t saved;
	int error;

	/* Signals are the program's business; a broken pipe is then an error of write() alone. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	error = pthread_create(&l->thread, NULL, run, l);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	l->started = error == 0;
	return -error;
}

void loop_stop(struct loop *l)
{
	if (!l->started)
		return;
	pthread_mutex_lock(&l->lock);
	l->stopping = true;
	pthread_mutex_unlock(&l->lock);
	loop_wake(l);
	(void)pthread_join(l->thread, NULL); /* cannot fail: it is ours, and joined once */
	l->started = false;
}

void loop_finish(struct loop *l)
{
	if (l->epoll_fd >= 0)
		close(l->epoll_fd);
	if (l->wake_fd >= 0)
		close(l->wake_fd);
	free(l->plain);
	free(l->wire);
	free(l->input);
	while (l->spare_count > 0)
		free(l->spare[--l->spare_count]);
	pthread_mutex_destroy(&l->lock);
}
