#include "transport/client.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "transport/client_internal.h"
#include "transport/compress.h"
#include "transport/tls.h"

#define POOL_MAX	128u /* calls kept with their easy handles for reuse */
#define KEPT_BODIES_MAX 16u  /* in the pool: a fresh MiB costs 256 page faults */
#define KEPT_BODIES_LEAN 2u
#define POOL_LEAN	16u
#define KEPT_BYTES_MIN	(64u << 10)
#define EVENTS_MAX	32
#define WAIT_MS_MAX	60000

static pthread_once_t library_once = PTHREAD_ONCE_INIT;
static CURLcode library_result;
static int library_error;

static void library_init(void)
{
	library_result = curl_global_init(CURL_GLOBAL_DEFAULT);
	library_error = lane_library_init();
}

struct instant client_now(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_BOOTTIME, &now); /* cannot fail with this clock */
	return (struct instant){ (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec };
}

/* ---- calls ---- */

static void call_free(struct client_call *call)
{
	curl_easy_cleanup(call->easy);
	free(call->body);
	free(call);
}

static struct client_call *call_make(struct client *c)
{
	struct client_call *call = calloc(1, sizeof(*call));

	if (!call)
		return NULL;
	call->client = c;
	call->stream.call = call;
	call->easy = curl_easy_init();
	if (!call->easy) {
		free(call);
		return NULL;
	}
	call_set_options(call);
	return call;
}

/* A call within the bound, from the pool or new. */
static int call_get(struct client *c, struct client_call **ret_call)
{
	struct client_call *call = NULL;
	int error = 0;

	pthread_mutex_lock(&c->lock);
	if (c->stopping)
		error = -ECANCELED;
	else if (c->call_count >= c->call_count_max)
		error = -EAGAIN;
	else {
		c->call_count++;
		call = c->pool;
		if (call) {
			c->pool = call->next;
			c->pool_count--;
			if (call->body)
				c->kept_count--;
		}
	}
	pthread_mutex_unlock(&c->lock);
	if (error)
		return error;
	if (!call)
		call = call_make(c);
	if (!call) {
		pthread_mutex_lock(&c->lock);
		c->call_count--;
		pthread_mutex_unlock(&c->lock);
		return -ENOMEM;
	}
	call->next = call->previous = NULL;
	*ret_call = call;
	return 0;
}

void call_put(struct client_call *call)
{
	struct client *c = call->client;
	struct client_call **at;
	uint8_t *spare = NULL;
	bool kept = false;
	bool pooled;

	if (call->head != call->head_inline)
		free(call->head);
	frame_reader_finish(&call->reader);
	call->head = NULL;
	call->body_length = call->sent = 0;
	call->offered = call->repeated = false;
	call->begun = call->is_message = call->is_stream = false;
	call->compressed = call->bad_encoding = false;
	call->http_status = 0;
	call->reader_error = 0;
	call->detail[0] = 0;
	call->bulk = (struct slice){ NULL, 0 };
	pthread_mutex_lock(&c->lock);
	if (call->cancel_queued) {
		for (at = &c->cancels; *at && *at != call; at = &(*at)->cancel_next)
			;
		if (*at)
			*at = call->cancel_next;
		call->cancel_queued = false;
	}
	c->call_count--;
	pooled = c->pool_count < (c->lean ? POOL_LEAN : POOL_MAX);
	if (pooled) {
		kept = call->body_capacity >= KEPT_BYTES_MIN &&
		       c->kept_count < (c->lean ? KEPT_BODIES_LEAN : KEPT_BODIES_MAX);
		if (kept)
			c->kept_count++;
		spare = kept ? NULL : call->body;
		if (!kept) {
			call->body = NULL;
			call->body_capacity = 0;
		}
		call->next = c->pool;
		c->pool = call;
		c->pool_count++;
	}
	pthread_mutex_unlock(&c->lock);
	free(spare);
	if (!pooled)
		call_free(call);
}

static void client_wake(struct client *c)
{
	uint64_t one = 1;

	(void)!write(c->wake_fd, &one, sizeof(one)); /* full: it is awake already */
}

static int call_submit(struct client *c, struct client_call *call)
{
	bool wake;

	call->state = CALL_QUEUED;
	pthread_mutex_lock(&c->lock);
	if (c->stopping) {
		pthread_mutex_unlock(&c->lock);
		return -ECANCELED;
	}
	list_add(&c->submitted, call);
	wake = !c->signalled;
	c->signalled = true;
	pthread_mutex_unlock(&c->lock);
	if (wake)
		client_wake(c);
	return 0;
}

static int call_prepare(struct client_call *call, const char *path, const struct message *message)
{
	size_t length = strlen(path);

	if (length >= sizeof(call->path))
		return -EMSGSIZE;
	memcpy(call->path, path, length + 1);
	return frame_encode(message, call->head_inline, sizeof(call->head_inline), &call->head,
			    &call->head_length);
}

int client_call(struct client *c, enum client_channel channel, const char *path,
		const struct message *message, struct slice bulk, struct duration timeout,
		client_done *done, void *context, struct client_call **ret_call)
{
	struct client_call *call;
	int error;

	if (bulk.length > BULK_BYTES_MAX)
		return -EMSGSIZE;
	error = call_get(c, &call);
	if (error)
		return error;
	error = call_prepare(call, path, message);
	if (!error) {
		call->channel = channel;
		call->bulk = bulk;
		call->deadline = instant_add(client_now(), timeout);
		call->done = done;
		call->context = context;
		c->counters.calls++;
		/* Before it is submitted: `done` may come before we return. */
		if (ret_call)
			*ret_call = call;
		error = call_submit(c, call);
	}
	if (error)
		call_put(call);
	return error;
}

int client_stream(struct client *c, const char *path, const struct message *message,
		  void (*received)(void *context, struct slice message),
		  void (*ended)(void *context, int error, int http_status, const char *text),
		  void *context, struct client_stream **ret_stream)
{
	struct client_call *call;
	int error = call_get(c, &call);

	if (error)
		return error;
	error = call_prepare(call, path, message);
	if (!error) {
		call->channel = CLIENT_CONTROL;
		call->deadline = (struct instant){ UINT64_MAX };
		call->is_stream = true;
		call->received = received;
		call->ended = ended;
		call->context = context;
		*ret_stream = &call->stream;
		error = call_submit(c, call);
	}
	if (error)
		call_put(call);
	return error;
}

void client_cancel(struct client_call *call)
{
	struct client *c = call->client;
	bool wake = false;

	pthread_mutex_lock(&c->lock);
	if (!call->cancel_queued) {
		call->cancel_queued = true;
		call->cancel_next = c->cancels;
		c->cancels = call;
		wake = !c->signalled;
		c->signalled = true;
	}
	pthread_mutex_unlock(&c->lock);
	if (wake)
		client_wake(c);
}

void client_stream_close(struct client_stream *stream)
{
	client_cancel(stream->call);
}

/* ---- the thread ---- */

static struct lane *choose_lane(struct client *c, enum client_channel channel)
{
	struct lane *least = &c->lanes[0];

	if (channel == CLIENT_CONTROL)
		return least;
	least = &c->lanes[1];
	for (unsigned i = 2; i < c->lane_count; i++)
		if (c->lanes[i].count < least->count)
			least = &c->lanes[i];
	return least;
}

/* What other threads asked for. True when the client is to stop. */
static bool take_orders(struct client *c)
{
	struct client_call *submitted;
	struct client_call *cancelled;
	bool reconnecting;
	bool stopping;

	pthread_mutex_lock(&c->lock);
	submitted = c->submitted.first;
	c->submitted = (struct call_list){ NULL, NULL };
	c->signalled = false;
	reconnecting = c->reconnecting;
	c->reconnecting = false;
	stopping = c->stopping;
	pthread_mutex_unlock(&c->lock);
	for (unsigned i = 0; i < c->lane_count && reconnecting; i++)
		lane_reconnect(&c->lanes[i]);
	while (submitted) {
		struct client_call *call = submitted;

		submitted = call->next;
		call->lane = choose_lane(c, call->channel);
		call->lane->count++;
		call->state = CALL_WAITING;
		list_add(&call->lane->waiting, call);
	}
	for (;;) {
		pthread_mutex_lock(&c->lock);
		cancelled = c->cancels;
		/* One that was submitted after we looked comes next time, with its cancel. */
		if (cancelled && cancelled->state == CALL_QUEUED)
			cancelled = NULL;
		if (cancelled) {
			c->cancels = cancelled->cancel_next;
			cancelled->cancel_queued = false;
		}
		pthread_mutex_unlock(&c->lock);
		if (!cancelled)
			break;
		call_abort(cancelled, -ECANCELED);
	}
	return stopping;
}

static int wait_ms(const struct client *c)
{
	struct instant now = client_now();
	struct instant due = { UINT64_MAX };
	uint64_t ms;

	for (unsigned i = 0; i < c->lane_count; i++) {
		struct instant next = lane_due(&c->lanes[i], now);

		if (instant_before(next, due))
			due = next;
	}
	if (due.ns == UINT64_MAX)
		return -1;
	ms = (instant_until(now, due).ns + NS_PER_MS - 1) / NS_PER_MS;
	return ms > WAIT_MS_MAX ? WAIT_MS_MAX : (int)ms;
}

static void handle_event(struct client *c, const struct epoll_event *event)
{
	uint32_t index = (uint32_t)(event->data.u64 >> 32);
	uint64_t count;

	if (index < c->lane_count)
		lane_socket_ready(&c->lanes[index], (int)(uint32_t)event->data.u64, event->events);
	else
		(void)!read(c->wake_fd, &count, sizeof(count)); /* only its being ready matters */
}

static void *run(void *context)
{
	struct client *c = context;
	struct epoll_event events[EVENTS_MAX];
	bool stopping = false;

	while (!stopping) {
		int count = epoll_wait(c->epoll_fd, events, EVENTS_MAX, wait_ms(c));

		for (int i = 0; i < count; i++)
			handle_event(c, &events[i]);
		stopping = take_orders(c);
		for (unsigned i = 0; i < c->lane_count; i++)
			lane_run(&c->lanes[i]);
	}
	/* Nothing is accepted any more; once more for what was submitted just before. */
	(void)take_orders(c);
	for (unsigned i = 0; i < c->lane_count; i++)
		lane_end_all(&c->lanes[i], -ECANCELED);
	return NULL;
}

/* ---- making and ending it ---- */

static bool is_loopback(const char *host)
{
	return strcmp(host, "localhost") == 0 || strncmp(host, "127.", 4) == 0 ||
	       strcmp(host, "[::1]") == 0;
}

static int check_url(struct client *c, const char *url, char *text, size_t size)
{
	CURLU *parsed = curl_url();
	char *scheme = NULL;
	char *host = NULL;
	int error = 0;

	if (!parsed || curl_url_set(parsed, CURLUPART_URL, url, 0) != CURLUE_OK ||
	    curl_url_get(parsed, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
	    curl_url_get(parsed, CURLUPART_HOST, &host, 0) != CURLUE_OK) {
		error = -EINVAL;
	} else {
		c->tls = strcmp(scheme, "https") == 0;
		if (!c->tls && strcmp(scheme, "http") != 0)
			error = -EINVAL;
		else if (!c->tls && !is_loopback(host))
			error = -EPERM;
	}
	if (error == -EINVAL)
		(void)snprintf(text, size,
			       "%s is not the address of an origin: give "
			       "https://HOST:PORT",
			       url);
	else if (error)
		(void)snprintf(text, size,
			       "%s: without TLS only to this machine's loopback; use "
			       "https://",
			       url);
	curl_free(scheme);
	curl_free(host);
	curl_url_cleanup(parsed);
	return error;
}

static struct curl_slist *make_headers(enum client_channel channel)
{
	const char *const lines[] = {
		"content-type: " FRAME_CONTENT_TYPE,
		"Expect:",
		channel == CLIENT_DATA || channel == CLIENT_AHEAD ? "accept-encoding: " COMPRESS_NAME : NULL,
		channel == CLIENT_CONTROL ? "priority: " FRAME_URGENT :
		channel == CLIENT_AHEAD || channel == CLIENT_AHEAD_PLAIN ? "priority: " FRAME_AHEAD : NULL,
	};
	struct curl_slist *list = NULL, *longer;

	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		if (!lines[i])
			continue;
		longer = curl_slist_append(list, lines[i]);
		if (!longer) {
			curl_slist_free_all(list);
			return NULL;
		}
		list = longer;
	}
	return list;
}

static int set_names(struct client *c, const struct client_config *config, char *text, size_t size)
{
	size_t length = strlen(config->url);

	while (length > 0 && config->url[length - 1] == '/')
		length--;
	c->url = strndup(config->url, length);
	if (!c->url)
		return -ENOMEM;
	for (unsigned i = 0; i < CLIENT_CHANNELS; i++) {
		c->headers[i] = make_headers((enum client_channel)i);
		if (!c->headers[i])
			return -ENOMEM;
	}
	if (!c->tls)
		return 0;
	if (!config->tls_directory || !tls_joined(config->tls_directory)) {
		(void)snprintf(text, size,
			       "this host has not joined the origin %s (no certificate in %s); "
			       "mount with --join and the token that the origin prints",
			       c->url, config->tls_directory ? config->tls_directory : "-");
		return -ENOKEY;
	}
	if (asprintf(&c->certificate, "%s/host.pem", config->tls_directory) < 0)
		c->certificate = NULL;
	if (asprintf(&c->key, "%s/host.key", config->tls_directory) < 0)
		c->key = NULL;
	if (asprintf(&c->authority, "%s/ca.pem", config->tls_directory) < 0)
		c->authority = NULL;
	return c->certificate && c->key && c->authority ? 0 : -ENOMEM;
}

static int open_lanes(struct client *c, unsigned data_connections)
{
	unsigned count = data_connections ? data_connections : 1;
	int error = 0;

	if (count > LANES_MAX - 1)
		count = LANES_MAX - 1;
	for (unsigned i = 0; i < count + 1 && !error; i++) {
		c->lanes[i].client = c;
		c->lanes[i].index = i;
		error = lane_open(&c->lanes[i]);
		if (!error)
			c->lane_count++;
	}
	return error;
}

static int start_thread(struct client *c)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = UINT64_MAX };
	sigset_t all;
	sigset_t saved;
	int error;

	c->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->epoll_fd < 0 || c->wake_fd < 0 ||
	    epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, c->wake_fd, &event) < 0)
		return -errno;
	/* Signals are the program's business; a broken pipe is then an error of write() alone. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	error = pthread_create(&c->thread, NULL, run, c);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	c->started = error == 0;
	return -error;
}

int client_create(const struct client_config *config, struct client **ret_client, char *ret_text,
		  size_t text_size)
{
	struct client *c = calloc(1, sizeof(*c));
	int error;

	(void)pthread_once(&library_once, library_init);
	(void)snprintf(ret_text, text_size, "cannot make a client for %s", config->url);
	if (!c || library_result != CURLE_OK || library_error) {
		free(c);
		return -ENOMEM;
	}
	c->epoll_fd = c->wake_fd = -1;
	c->call_count_max = config->call_count_max;
	c->lean = config->lean;
	c->connect_timeout_ms = (long)(config->connect_timeout.ns / NS_PER_MS);
	pthread_mutex_init(&c->lock, NULL);
	error = check_url(c, config->url, ret_text, text_size);
	if (!error)
		error = set_names(c, config, ret_text, text_size);
	if (!error)
		error = open_lanes(c, config->data_connections);
	if (!error)
		error = start_thread(c);
	if (error) {
		client_destroy(c);
		return error;
	}
	*ret_client = c;
	return 0;
}

void client_destroy(struct client *c)
{
	if (!c)
		return;
	if (c->started) {
		pthread_mutex_lock(&c->lock);
		c->stopping = true;
		pthread_mutex_unlock(&c->lock);
		client_wake(c);
		(void)pthread_join(c->thread, NULL); /* cannot fail: it is ours, and joined once */
	}
	while (c->pool) {
		struct client_call *call = c->pool;

		c->pool = call->next;
		call_free(call);
	}
	for (unsigned i = 0; i < c->lane_count; i++)
		lane_close(&c->lanes[i]);
	if (c->epoll_fd >= 0)
		close(c->epoll_fd);
	if (c->wake_fd >= 0)
		close(c->wake_fd);
	for (unsigned i = 0; i < CLIENT_CHANNELS; i++)
		curl_slist_free_all(c->headers[i]);
	free(c->url);
	free(c->certificate);
	free(c->key);
	free(c->authority);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

void client_reconnect(struct client *c)
{
	pthread_mutex_lock(&c->lock);
	c->reconnecting = true;
	pthread_mutex_unlock(&c->lock);
	client_wake(c);
}

void client_counters(const struct client *c, struct client_counters *ret_counters)
{
	*ret_counters = (struct client_counters){
		.calls = c->counters.calls,
		.bytes_in = c->counters.bytes_in,
		.bytes_out = c->counters.bytes_out,
		.connections = c->counters.connections,
		.failures = c->counters.failures,
		.cancelled = c->counters.cancelled,
		.timeouts = c->counters.timeouts,
	};
}
