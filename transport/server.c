#include "transport/server.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "transport/server_internal.h"

#define BACKLOG 512 /* connections that the kernel holds until we accept them */

struct instant clock_now(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_BOOTTIME, &now); /* cannot fail with this clock */
	return (struct instant){ (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec };
}

static int say(char *text, size_t size, int error, const char *what, const char *address,
	       const char *why)
{
	(void)snprintf(text, size, "%s %s: %s", what, address, why);
	return error;
}

static bool is_loopback(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET)
		return ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr) >> 24 == 127;
	return address->sa_family == AF_INET6 &&
	       IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)address)->sin6_addr);
}

/* "HOST:PORT" or "[HOST]:PORT"; an empty host or "*" is every address. */
static int split_address(const char *address, char *host, size_t host_size, const char **ret_port)
{
	const char *colon = strrchr(address, ':');
	const char *begin = address;
	size_t length;

	if (!colon || !colon[1])
		return -EINVAL;
	length = (size_t)(colon - address);
	if (length >= 2 && address[0] == '[' && colon[-1] == ']') {
		begin++;
		length -= 2;
	} else if (memchr(address, ':', length)) {
		return -EINVAL;
	}
	if (length >= host_size)
		return -EINVAL;
	memcpy(host, begin, length);
	host[length] = 0;
	if (strcmp(host, "*") == 0)
		host[0] = 0;
	*ret_port = colon + 1;
	return 0;
}

static int listen_at(struct server *s, const struct addrinfo *where)
{
	const int one = 1;
	int fd = socket(where->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int error;

	if (fd < 0)
		return -errno;
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)); /* bind says if not */
	if (bind(fd, where->ai_addr, where->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0) {
		error = -errno;
		close(fd);
		return error;
	}
	s->listen_fd = fd;
	return 0;
}

static void remember_port(struct server *s)
{
	struct sockaddr_storage name;
	socklen_t length = sizeof(name);

	if (getsockname(s->listen_fd, (struct sockaddr *)&name, &length) < 0)
		return;
	s->port = ntohs(name.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&name)->sin6_port
						   : ((struct sockaddr_in *)&name)->sin_port);
}

static int start_listening(struct server *s, const char *address, char *text, size_t size)
{
	const struct addrinfo hints = { .ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM };
	struct addrinfo *found = NULL;
	char host[256];
	const char *port;
	int error = split_address(address, host, sizeof(host), &port);

	if (error)
		return say(text, size, error, "cannot listen at", address,
			   "give ADDRESS:PORT, or [ADDRESS]:PORT for IPv6");
	error = getaddrinfo(host[0] ? host : NULL, port, &hints, &found);
	if (error)
		return say(text, size, -EADDRNOTAVAIL, "cannot listen at", address,
			   gai_strerror(error));
	if (!s->tls && !is_loopback(found->ai_addr))
		error = say(text, size, -EPERM, "will not listen at", address,
			    "without TLS only on this machine's loopback (127.0.0.1 or [::1])");
	else {
		error = listen_at(s, found);
		if (error)
			(void)say(text, size, error, "cannot listen at", address, strerror(-error));
		else
			remember_port(s);
	}
	freeaddrinfo(found);
	return error;
}

static int start_loops(struct server *s, unsigned count)
{
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = &s->listen_fd };
	int error = 0;

	s->loops = calloc(count, sizeof(*s->loops));
	if (!s->loops)
		return -ENOMEM;
	for (unsigned i = 0; i < count && !error; i++) {
		s->loop_count++;
		error = loop_init(&s->loops[i], s);
	}
	/* One loop accepts and hands over to the one with the fewest: few hosts with few long-lived
	   connections would not be spread evenly by the kernel's choice of who wakes up. */
	if (!error && epoll_ctl(s->loops[0].epoll_fd, EPOLL_CTL_ADD, s->listen_fd, &event) < 0)
		error = -errno;
	for (unsigned i = count; i > 0 && !error; i--)
		error = loop_start(&s->loops[i - 1]);
	return error;
}

static void server_free(struct server *s)
{
	for (unsigned i = 0; i < s->loop_count; i++)
		loop_finish(&s->loops[i]);
	free(s->loops);
	nghttp2_session_callbacks_del(s->callbacks);
	nghttp2_option_del(s->option);
	BIO_meth_free(s->bio_method);
	pthread_mutex_destroy(&s->drain_lock);
	pthread_cond_destroy(&s->drain_changed);
	pthread_mutex_destroy(&s->squeeze_lock);
	SSL_CTX_free(s->tls);
	free(s);
}

void server_ref(struct server *s)
{
	s->references++;
}

void server_unref(struct server *s)
{
	if (--s->references == 0)
		server_free(s);
}

static struct server *server_allocate(const struct server_config *config)
{
	struct server *s = calloc(1, sizeof(*s));
	pthread_condattr_t attributes;

	if (!s)
		return NULL;
	s->tls = config->tls;
	if (s->tls)
		SSL_CTX_up_ref(s->tls);
	s->handler = config->handler;
	s->context = config->context;
	s->connection_count_max = config->connection_count_max;
	s->request_count_max = config->request_count_max;
	s->listen_fd = -1;
	s->references = 1;
	pthread_mutex_init(&s->drain_lock, NULL);
	pthread_mutex_init(&s->squeeze_lock, NULL);
	squeeze_init(&s->squeeze);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&s->drain_changed, &attributes);
	pthread_condattr_destroy(&attributes);
	return s;
}

int server_create(const struct server_config *config, struct server **ret_server, char *ret_text,
		  size_t text_size)
{
	struct server *s = server_allocate(config);
	int error;

	if (!s)
		return say(ret_text, text_size, -ENOMEM, "cannot listen at", config->address,
			   "out of memory");
	error = start_listening(s, config->address, ret_text, text_size);
	if (!error) {
		error = connection_library_init(s);
		if (!error)
			error = start_loops(s, config->loop_count ? config->loop_count : 1);
		if (error)
			(void)say(ret_text, text_size, error, "cannot serve at", config->address,
				  strerror(-error));
	}
	if (error) {
		server_destroy(s);
		return error;
	}
	*ret_server = s;
	return 0;
}

uint16_t server_port(const struct server *s)
{
	return s->port;
}

void server_drain_changed(struct server *s)
{
	if (!s->draining)
		return;
	pthread_mutex_lock(&s->drain_lock);
	pthread_cond_broadcast(&s->drain_changed);
	pthread_mutex_unlock(&s->drain_lock);
}

void server_drain(struct server *s, struct duration timeout)
{
	struct timespec until;
	uint64_t end;

	(void)clock_gettime(CLOCK_MONOTONIC, &until); /* cannot fail with this clock */
	end = (uint64_t)until.tv_nsec + timeout.ns % NS_PER_S;
	until.tv_sec += (time_t)(timeout.ns / NS_PER_S + end / NS_PER_S);
	until.tv_nsec = (long)(end % NS_PER_S);

	(void)epoll_ctl(s->loops[0].epoll_fd, EPOLL_CTL_DEL, s->listen_fd, NULL); /* or long done */
	(void)shutdown(s->listen_fd, SHUT_RDWR); /* hosts that come now are refused at once */
	s->draining = true;
	for (unsigned i = 0; i < s->loop_count; i++)
		loop_wake(&s->loops[i]);
	pthread_mutex_lock(&s->drain_lock);
	while (s->connection_count > 0 || s->request_count > 0 || s->reserved_count > 0)
		if (pthread_cond_timedwait(&s->drain_changed, &s->drain_lock, &until) != 0)
			break;
	pthread_mutex_unlock(&s->drain_lock);
}

void server_destroy(struct server *s)
{
	if (!s)
		return;
	/* The first loop accepts: once it has stopped no connection is handed to the others. */
	for (unsigned i = 0; i < s->loop_count; i++)
		loop_stop(&s->loops[i]);
	/* The memory may live on for requests that a handler still holds; the port must not. */
	if (s->listen_fd >= 0)
		close(s->listen_fd);
	s->listen_fd = -1;
	server_unref(s);
}

void server_counters(const struct server *s, struct server_counters *ret_counters)
{
	*ret_counters = (struct server_counters){
		.connections = s->counters.connections,
		.requests = s->counters.requests,
		.responses = s->counters.responses,
		.bytes_in = s->counters.bytes_in,
		.bytes_out = s->counters.bytes_out,
		.refused = s->counters.refused,
		.cancelled = s->counters.cancelled,
		.streams = s->counters.streams,
		.malformed = s->counters.malformed,
		.tls_failures = s->counters.tls_failures,
		.compressed_in = s->counters.compressed_in,
		.compressed_out = s->counters.compressed_out,
	};
}
