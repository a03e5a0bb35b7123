/*
 * bench_link - a link between tools/bench and a server on this machine: it delays what passes, each
 * way by the same time, and lets no more than so many bytes per second through each way, all
 * connections together.
 *
 *   bench_link TARGET_PORT DELAY_US BYTES_PER_SECOND [ADDRESS]
 *
 * Listens on a port of ADDRESS (127.0.0.1) that it prints, until its standard input ends; the target is
 * on 127.0.0.1. A rate of 0 is none. What waits for its turn is bounded (QUEUE_NS of the link's time,
 * and QUEUE_BYTES of each connection, which leaves 400 MB/s at a delay of 10 ms): then nobody reads,
 * and the sender meets a full socket, as behind a router with that buffer.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHUNK	    (64u << 10)
#define QUEUE_NS    20000000u /* 20 ms at the link's rate */
#define QUEUE_BYTES (4u << 20)
#define NS	    1000000000u

static uint64_t delay_ns, rate;
static uint16_t target;

/* One direction of the link: when it has sent what was given to it. */
static struct way {
	pthread_mutex_t lock;
	uint64_t free_at;
} ways[2] = { { PTHREAD_MUTEX_INITIALIZER, 0 }, { PTHREAD_MUTEX_INITIALIZER, 0 } };

struct chunk {
	struct chunk *next;
	uint64_t due;
	ssize_t length; /* 0: the end */
	unsigned char bytes[CHUNK];
};

/* One direction of one connection: a thread that takes and one that gives. */
struct pump {
	int from, to;
	struct way *way;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct chunk *first, **last;
	size_t queued; /* bytes that are not sent */
	bool ended;    /* nobody sends them any more */
};

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NS + (uint64_t)t.tv_nsec;
}

static void sleep_until(uint64_t at)
{
	struct timespec t = { (time_t)(at / NS), (long)(at % NS) };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

/* When the last of so many bytes has left; waits while the queue is full. */
static uint64_t pass(struct way *way, size_t length)
{
	uint64_t at = now(), start, end;

	pthread_mutex_lock(&way->lock);
	start = way->free_at > at ? way->free_at : at;
	end = rate ? start + (uint64_t)length * NS / rate : start;
	way->free_at = end;
	pthread_mutex_unlock(&way->lock);
	if (start > at + QUEUE_NS)
		sleep_until(start - QUEUE_NS);
	return end;
}

static void *take(void *context)
{
	struct pump *pump = context;
	ssize_t n;

	do {
		struct chunk *chunk = malloc(sizeof(*chunk));

		if (!chunk)
			fail("memory");
		n = recv(pump->from, chunk->bytes, CHUNK, 0);
		chunk->length = n > 0 ? n : 0;
		chunk->due = pass(pump->way, (size_t)chunk->length) + delay_ns;
		chunk->next = NULL;
		pthread_mutex_lock(&pump->lock);
		*pump->last = chunk;
		pump->last = &chunk->next;
		pump->queued += (size_t)chunk->length;
		pthread_cond_broadcast(&pump->changed);
		while (pump->queued > QUEUE_BYTES && !pump->ended)
			pthread_cond_wait(&pump->changed, &pump->lock);
		pthread_mutex_unlock(&pump->lock);
	} while (n > 0);
	return NULL;
}

static void *give(void *context)
{
	struct pump *pump = context;
	ssize_t length = 1;

	while (length > 0) {
		struct chunk *chunk;
		size_t taken;

		pthread_mutex_lock(&pump->lock);
		while (!pump->first)
			pthread_cond_wait(&pump->changed, &pump->lock);
		chunk = pump->first;
		pump->first = chunk->next;
		if (!pump->first)
			pump->last = &pump->first;
		pthread_mutex_unlock(&pump->lock);
		sleep_until(chunk->due);
		length = chunk->length;
		taken = (size_t)length;
		for (ssize_t done = 0; done < length;) {
			ssize_t n = send(pump->to, chunk->bytes + done, (size_t)(length - done),
					 MSG_NOSIGNAL);

			if (n <= 0) {
				length = 0;
				break;
			}
			done += n;
		}
		free(chunk);
		pthread_mutex_lock(&pump->lock);
		pump->queued -= taken;
		pthread_cond_broadcast(&pump->changed);
		pthread_mutex_unlock(&pump->lock);
	}
	/* Whoever takes is not to wait for us any more. */
	pthread_mutex_lock(&pump->lock);
	pump->ended = true;
	pthread_cond_broadcast(&pump->changed);
	pthread_mutex_unlock(&pump->lock);
	/* The other direction ends by itself. Descriptors stay until we end: few are opened. */
	shutdown(pump->to, SHUT_WR);
	shutdown(pump->from, SHUT_RD);
	return NULL;
}

static void pump_start(int from, int to, struct way *way)
{
	struct pump *pump = calloc(1, sizeof(*pump));
	pthread_t thread;

	if (!pump)
		fail("memory");
	*pump = (struct pump){ .from = from, .to = to, .way = way };
	pthread_mutex_init(&pump->lock, NULL);
	pthread_cond_init(&pump->changed, NULL);
	pump->last = &pump->first;
	if (pthread_create(&thread, NULL, take, pump) || pthread_create(&thread, NULL, give, pump))
		fail("pthread_create");
}

static void *accept_all(void *context)
{
	int listener = *(int *)context;

	for (;;) {
		struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(target) };
		int one = 1, host = accept(listener, NULL, NULL), server;

		if (host < 0)
			continue;
		address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (server < 0 || connect(server, (struct sockaddr *)&address, sizeof(address)) < 0) {
			close(host);
			if (server >= 0)
				close(server);
			continue;
		}
		setsockopt(host, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		pump_start(host, server, &ways[0]);
		pump_start(server, host, &ways[1]);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	socklen_t length = sizeof(address);
	pthread_t thread;
	char byte;
	static int listener;

	if (argc != 4 && argc != 5) {
		fprintf(stderr, "usage: bench_link TARGET_PORT DELAY_US BYTES_PER_SECOND [ADDRESS]\n");
		return 2;
	}
	target = (uint16_t)strtoul(argv[1], NULL, 10);
	delay_ns = strtoull(argv[2], NULL, 10) * 1000;
	rate = strtoull(argv[3], NULL, 10);
	signal(SIGPIPE, SIG_IGN);
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (argc == 5 && inet_pton(AF_INET, argv[4], &address.sin_addr) != 1) {
		fprintf(stderr, "bench_link: '%s' is no address\n", argv[4]);
		return 2;
	}
	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(listener, 64) < 0 ||
	    getsockname(listener, (struct sockaddr *)&address, &length) < 0)
		fail("listen");
	if (pthread_create(&thread, NULL, accept_all, &listener))
		fail("pthread_create");
	printf("%u\n", ntohs(address.sin_port));
	fflush(stdout);
	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	_exit(0);
}
