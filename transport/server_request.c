/* Requests, their answers, and streams of messages. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "lease/status.h"
#include "transport/compress.h"
#include "transport/server_internal.h"

static struct server_request *request_of_post(struct loop_post *post)
{
	return (struct server_request *)((char *)post - offsetof(struct server_request, post));
}

static struct server_stream *stream_of_post(struct loop_post *post)
{
	return (struct server_stream *)((char *)post - offsetof(struct server_stream, post));
}

/* ---- a request's life ---- */

struct server_request *request_create(struct connection *c, int32_t stream_id)
{
	struct server_request *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->loop = c->loop;
	r->connection = c;
	r->stream_id = stream_id;
	r->content_length = -1;
	r->progress = c->loop->now;
	r->tls = c->ssl != NULL;
	r->has_name = c->has_name;
	memcpy(r->name, c->name, sizeof(r->name));
	r->next = c->requests;
	if (r->next)
		r->next->previous = r;
	c->requests = r;
	server_ref(c->loop->server);
	return r;
}

static void request_detach(struct server_request *r)
{
	struct connection *c = r->connection;

	if (!c)
		return;
	if (r->previous)
		r->previous->next = r->next;
	else
		c->requests = r->next;
	if (r->next)
		r->next->previous = r->previous;
	r->next = r->previous = NULL;
	if (r->reserved)
		c->reserved_count--;
	r->connection = NULL;
}

void bulk_release(struct server_bulk *bulk)
{
	if (bulk->release)
		bulk->release(bulk->context, bulk->data);
	*bulk = (struct server_bulk){ .data = NULL };
}

static void request_free(struct server_request *r)
{
	struct server *s = r->loop->server;

	request_detach(r);
	bulk_release(&r->bulk);
	if (r->head != r->reply_inline)
		free(r->head);
	free(r->body);
	free(r->path);
	free(r->range);
	free(r->header_name); /* header_value lies in it */
	if (r->counted)
		s->request_count--;
	if (r->reserved)
		s->reserved_count--;
	free(r);
	server_drain_changed(s);
	server_unref(s);
}

static void stream_unref(struct server_stream *stream)
{
	struct server *s = stream->server;

	if (--stream->references > 0)
		return;
	pthread_mutex_destroy(&stream->lock);
	free(stream->backlog);
	free(stream);
	server_unref(s);
}

/* Nobody will send on it any more: says so, once. */
static void stream_finish(struct server_stream *stream)
{
	uint8_t *backlog;

	stream->request = NULL;
	pthread_mutex_lock(&stream->lock);
	stream->is_ended = true;
	backlog = stream->backlog;
	stream->backlog = NULL;
	stream->backlog_length = stream->backlog_capacity = 0;
	pthread_mutex_unlock(&stream->lock);
	free(backlog);
	stream->ended(stream->context, stream);
	stream_unref(stream);
}

void request_closed(struct server_request *r)
{
	struct server_stream *stream = r->stream;

	if (r->state == REQUEST_HANDLED) {
		/* The handler has it: it finds out by asking, or never. */
		r->loop->server->counters.cancelled++;
		request_detach(r);
		r->cancelled = true;
		return;
	}
	r->stream = NULL;
	request_free(r);
	if (stream)
		stream_finish(stream);
}

/* ---- receiving ---- */

static void set_answer(struct server_request *r, int http_status, const char *content_type)
{
	r->http_status = http_status;
	(void)snprintf(r->content_type, sizeof(r->content_type), "%s",
		       content_type ? content_type : "");
}

static char *copy_text(const uint8_t *text, size_t length)
{
	return strndup((const char *)text, length);
}

static bool is(const uint8_t *text, size_t length, const char *word)
{
	return length == strlen(word) && memcmp(text, word, length) == 0;
}

static int64_t read_number(const uint8_t *text, size_t length)
{
	int64_t value = 0;

	if (length == 0 || length > 18)
		return -1;
	for (size_t i = 0; i < length; i++) {
		if (text[i] < '0' || text[i] > '9')
			return -1;
		value = value * 10 + (text[i] - '0');
	}
	return value;
}

static bool refuse_later(struct server_request *r, int http_status)
{
	if (!r->refusal)
		r->refusal = http_status;
	return false;
}

bool request_add_header(struct server_request *r, const uint8_t *name, size_t name_length,
			const uint8_t *value, size_t value_length)
{
	r->header_bytes += name_length + value_length + 32; /* as RFC 9113 6.5.2 counts */
	if (r->header_bytes > HEADER_BYTES_MAX)
		return refuse_later(r, 431);
	if (is(name, name_length, ":method")) {
		if (value_length >= sizeof(r->method))
			return refuse_later(r, 501);
		memcpy(r->method, value, value_length);
	} else if (is(name, name_length, ":path") && !r->path) {
		if (value_length > PATH_BYTES_MAX)
			return refuse_later(r, 414);
		r->path = copy_text(value, value_length);
		if (!r->path)
			return refuse_later(r, 503);
	} else if (is(name, name_length, "range") && !r->range) {
		r->range = copy_text(value, value_length);
		if (!r->range)
			return refuse_later(r, 503);
	} else if (is(name, name_length, "content-type")) {
		r->is_message = is(value, value_length, FRAME_CONTENT_TYPE);
	} else if (is(name, name_length, "content-length")) {
		r->content_length = read_number(value, value_length);
		if (r->content_length < 0)
			return refuse_later(r, 400);
	} else if (is(name, name_length, "priority")) {
		r->urgent = is(value, value_length, FRAME_URGENT);
	} else if (is(name, name_length, "accept-encoding")) {
		r->accepts_zstd = accepts_zstd(value, value_length);
	}
	return true;
}

/* A place in the reserve, for what is urgent and small. */
static bool take_reserved(struct server_request *r)
{
	struct connection *c = r->connection;
	struct server *s = r->loop->server;

	if (!r->urgent || r->content_length < 0 ||
	    r->content_length > (int64_t)RESERVE_BODY_BYTES_MAX ||
	    c->reserved_count >= RESERVE_COUNT_EACH)
		return false;
	if (s->reserved_count++ >= RESERVE_COUNT_MAX) {
		s->reserved_count--;
		return false;
	}
	c->reserved_count++;
	r->reserved = true;
	return true;
}

/* From now on it counts among the others. */
static void leave_reserve(struct server_request *r)
{
	struct server *s = r->loop->server;

	if (!r->reserved)
		return;
	r->reserved = false;
	r->counted = true;
	s->request_count++;
	s->reserved_count--;
	if (r->connection)
		r->connection->reserved_count--;
}

bool server_request_ordinary(struct server_request *r)
{
	if (r->reserved && r->loop->server->request_count >= r->loop->server->request_count_max)
		return false;
	leave_reserve(r);
	return true;
}

void request_headers_done(struct server_request *r)
{
	struct server *s = r->loop->server;

	s->counters.requests++;
	if (r->accepts_zstd && r->is_message)
		r->link_rate = link_rate(r->connection);
	if (!take_reserved(r)) {
		r->counted = true;
		if (s->request_count++ >= s->request_count_max)
			(void)refuse_later(r, 429);
	}
	if (s->draining)
		(void)refuse_later(r, 503);
	if (r->content_length > (int64_t)FRAME_BODY_BYTES_MAX)
		(void)refuse_later(r, 413);
	if (!r->path)
		(void)refuse_later(r, 400);
	/* A body of decent length is let pass, unkept, before it is refused: libcurl 7.88 takes
	   being told to stop in the middle of it for a broken stream. */
	if (r->refusal &&
	    (r->content_length < 0 || r->content_length > (int64_t)FRAME_BODY_BYTES_MAX))
		request_refuse(r, r->refusal);
}

/* On the loop's thread: large ones are kept for the next request. */
static void give_back_body(struct server_request *r)
{
	struct loop *l = r->loop;

	if (r->body_capacity == FRAME_BODY_BYTES_MAX && l->spare_count < SPARE_BODIES_MAX)
		l->spare[l->spare_count++] = r->body;
	else
		free(r->body);
	r->body = NULL;
	r->body_length = r->body_capacity = 0;
}

static bool get_large_body(struct server_request *r)
{
	struct loop *l = r->loop;

	r->body = l->spare_count > 0 ? l->spare[--l->spare_count] : malloc(FRAME_BODY_BYTES_MAX);
	r->body_capacity = r->body ? FRAME_BODY_BYTES_MAX : 0;
	return r->body != NULL;
}

static bool grow_body(struct server_request *r, size_t wanted)
{
	size_t capacity = r->body_capacity ? r->body_capacity * 2 : 1024;
	uint8_t *body;

	if (!r->body && r->content_length >= (int64_t)LARGE_BODY_BYTES)
		return get_large_body(r);
	if (r->content_length >= (int64_t)wanted)
		capacity = (size_t)r->content_length;
	if (capacity < wanted)
		capacity = wanted;
	body = realloc(r->body, capacity);
	if (!body)
		return false;
	r->body = body;
	r->body_capacity = capacity;
	return true;
}

/*
 * Refused, or about to be. RFC 9113 8.1 would have us reset the stream at once, behind the answer;
 * but libcurl then drops the answer, while by itself it stops sending when it sees one.
 */
static void drop_body(struct server_request *r, size_t length)
{
	r->dropped += length;
	if (r->dropped > DROPPED_BYTES_MAX && r->dropped - length <= DROPPED_BYTES_MAX)
		(void)nghttp2_submit_rst_stream(r->connection->session, NGHTTP2_FLAG_NONE,
						r->stream_id, NGHTTP2_NO_ERROR);
}

void request_add_body(struct server_request *r, const uint8_t *data, size_t length)
{
	size_t wanted = r->body_length + length;

	if (r->state != REQUEST_RECEIVING || r->refusal) {
		drop_body(r, length);
		return;
	}
	r->progress = r->loop->now;
	if (wanted > FRAME_BODY_BYTES_MAX) {
		request_refuse(r, 413);
		return;
	}
	if (wanted > r->body_capacity && !grow_body(r, wanted)) {
		request_refuse(r, 503);
		return;
	}
	memcpy(r->body + r->body_length, data, length);
	r->body_length = wanted;
}

void request_done(struct server_request *r)
{
	struct server *s = r->loop->server;
	struct server_request_view view;

	if (r->state != REQUEST_RECEIVING)
		return;
	if (r->refusal) {
		request_refuse(r, r->refusal);
		return;
	}
	r->arrived = r->loop->now;
	if (strcmp(r->method, "OPTIONS") == 0) {
		r->state = REQUEST_ANSWERING;
		set_answer(r, 204, NULL);
		request_submit(r);
		return;
	}
	r->state = REQUEST_HANDLED;
	server_request_view(r, &view);
	if (r->is_message && view.message.length == 0)
		s->counters.malformed++;
	s->handler(s->context, r);
}

void server_request_view(const struct server_request *r, struct server_request_view *ret_view)
{
	struct server_request_view view = {
		.method = r->method,
		.path = r->path,
		.range = r->range,
		.peer = r->has_name ? r->name
			: r->tls    ? NULL
				    : "",
		.body = { r->body, r->body_length },
		.arrived = r->arrived,
	};

	if (r->is_message && strcmp(r->method, "POST") == 0 &&
	    frame_split(view.body, &view.message, &view.bulk) < 0) {
		view.message = (struct slice){ NULL, 0 };
		view.bulk = view.message;
	}
	*ret_view = view;
}

bool server_request_cancelled(const struct server_request *r)
{
	return r->cancelled;
}

/* ---- answering ---- */

void request_copy_answer(struct server_request *r, uint8_t *to, size_t length)
{
	size_t from_head = 0;

	if (r->sent < r->head_length) {
		from_head = r->head_length - r->sent < length ? r->head_length - r->sent : length;
		memcpy(to, r->head + r->sent, from_head);
	}
	if (length > from_head)
		memcpy(to + from_head,
		       (uint8_t *)r->bulk.data + (r->sent + from_head - r->head_length),
		       length - from_head);
	r->sent += length;
	r->progress = r->loop->now;
}

ssize_t request_read_answer(nghttp2_session *session, int32_t stream_id, uint8_t *buffer,
			    size_t length, uint32_t *flags, nghttp2_data_source *source,
			    void *context)
{
	struct server_request *r = source->ptr;
	size_t left = r->head_length + r->bulk.length - r->sent;

	*flags |= NGHTTP2_DATA_FLAG_NO_COPY;
	if (left <= length) {
		*flags |= NGHTTP2_DATA_FLAG_EOF;
		length = left;
	}
	return (ssize_t)length;
}

/* Messages are small: they are copied, so that the backlog's memory may move meanwhile. */
static ssize_t read_stream(nghttp2_session *session, int32_t stream_id, uint8_t *buffer,
			   size_t length, uint32_t *flags, nghttp2_data_source *source,
			   void *context)
{
	struct server_request *r = source->ptr;
	struct server_stream *stream = r->stream;
	ssize_t result;

	pthread_mutex_lock(&stream->lock);
	if (length > stream->backlog_length)
		length = stream->backlog_length;
	if (length > 0) {
		memcpy(buffer, stream->backlog + stream->backlog_at, length);
		stream->backlog_at += length;
		stream->backlog_length -= length;
		result = (ssize_t)length;
	} else if (stream->ending) {
		*flags |= NGHTTP2_DATA_FLAG_EOF;
		result = 0;
	} else {
		result = NGHTTP2_ERR_DEFERRED;
	}
	pthread_mutex_unlock(&stream->lock);
	return result;
}

static nghttp2_nv header_of(const char *name, const char *value)
{
	return (nghttp2_nv){ (uint8_t *)name, (uint8_t *)value, strlen(name), strlen(value),
			     NGHTTP2_NV_FLAG_NONE };
}

void request_submit(struct server_request *r)
{
	struct server *s = r->loop->server;
	nghttp2_data_provider provider = { .source.ptr = r };
	nghttp2_nv headers[5];
	size_t count = 0;
	char status[16];
	char length[24];
	bool bodiless = strcmp(r->method, "HEAD") == 0 || r->http_status == 204;

	(void)snprintf(status, sizeof(status), "%d", r->http_status);
	headers[count++] = header_of(":status", status);
	if (r->content_type[0])
		headers[count++] = header_of("content-type", r->content_type);
	if (!r->stream && r->http_status != 204) {
		(void)snprintf(length, sizeof(length), "%zu", r->head_length + r->bulk.length);
		headers[count++] = header_of("content-length", length);
	}
	if (r->compressed)
		headers[count++] = header_of("content-encoding", COMPRESS_NAME);
	if (r->header_name)
		headers[count++] = header_of(r->header_name, r->header_value);
	provider.read_callback = r->stream ? read_stream : request_read_answer;
	s->counters.responses++;
	r->progress = r->loop->now;
#ifdef EXTENSIBLE_PRIORITIES
	if (!r->stream && !r->urgent && r->head_length + r->bulk.length <= SMALL_ANSWER_BYTES) {
		nghttp2_extpri small = { SMALL_ANSWER_URGENCY, 0 };

		/* When it fails the answer only comes in its turn. */
		(void)nghttp2_session_change_extpri_stream_priority(r->connection->session,
								    r->stream_id, &small, 1);
	}
#endif
	if (nghttp2_submit_response(r->connection->session, r->stream_id, headers, count,
				    bodiless ? NULL : &provider) != 0)
		r->connection->dead = true; /* out of memory: nothing else is left to say */
	loop_mark_dirty(r->loop, r->connection);
}

/* Statuses of the protocol for what the server itself refuses. */
static uint16_t status_of_refusal(int http_status)
{
	switch (http_status) {
	case 429:
		return STATUS_PUSHBACK;
	case 503:
		return STATUS_DRAINING;
	default:
		return STATUS_BADMESSAGE;
	}
}

void request_refuse(struct server_request *r, int http_status)
{
	struct message reply = { .type = MESSAGE_reply };
	int n;

	r->loop->server->counters.refused++;
	r->state = REQUEST_ANSWERING;
	give_back_body(r);
	reply.reply.status = status_of_refusal(http_status);
	if (r->is_message && frame_encode(&reply, r->reply_inline, sizeof(r->reply_inline),
					  &r->head, &r->head_length) == 0) {
		set_answer(r, http_status, FRAME_CONTENT_TYPE);
	} else {
		n = snprintf((char *)r->reply_inline, sizeof(r->reply_inline), "%d: %s\n",
			     http_status, status_text(status_of_refusal(http_status)));
		r->head = r->reply_inline;
		r->head_length = (size_t)n;
		set_answer(r, http_status, "text/plain");
	}
	request_submit(r);
}

static void run_answer(struct loop_post *post)
{
	struct server_request *r = request_of_post(post);

	if (!r->connection) {
		request_free(r);
		return;
	}
	give_back_body(r);
	r->state = REQUEST_ANSWERING;
	request_submit(r);
}

static void post_answer(struct server_request *r)
{
	r->post.run = run_answer;
	if (!loop_post(r->loop, &r->post))
		request_free(r);
}

/* A reply too large, or no memory for it: the host must get an answer all the same. */
static void set_failure(struct server_request *r, int error)
{
	bulk_release(&r->bulk);
	r->head = r->reply_inline;
	r->head_length = 0;
	set_answer(r, error == -ENOMEM ? 503 : 500, NULL);
}

static uint16_t status_of_message(const struct message *message)
{
	switch (message->type) {
	case MESSAGE_session_opened:
		return message->session_opened.status;
	case MESSAGE_kept_alive:
		return message->kept_alive.status;
	case MESSAGE_reclaimed:
		return message->reclaimed.status;
	case MESSAGE_acknowledged:
		return message->acknowledged.status;
	case MESSAGE_reply:
		return message->reply.status;
	default:
		return STATUS_OK;
	}
}

void server_respond(struct server_request *r, const struct message *reply, struct server_bulk bulk)
{
	int error;

	r->bulk = bulk;
	error = bulk.length > BULK_BYTES_MAX
			? -EMSGSIZE
			: frame_encode(reply, r->reply_inline, sizeof(r->reply_inline), &r->head,
				       &r->head_length);
	if (error)
		set_failure(r, error);
	else
		set_answer(r, status_http(status_of_message(reply)), FRAME_CONTENT_TYPE);
	request_compress(r);
	post_answer(r);
}

void server_request_set_group(struct server_request *r, uint64_t group)
{
	r->group = group;
}

void server_respond_plain(struct server_request *r, int http_status, const char *content_type,
			  const char *header, struct server_bulk body)
{
	char *colon;

	r->bulk = body;
	set_answer(r, http_status, content_type);
	if (header) {
		r->header_name = strdup(header);
		colon = r->header_name ? strchr(r->header_name, ':') : NULL;
		if (colon) {
			*colon++ = 0;
			r->header_value = colon + strspn(colon, " ");
		} else {
			free(r->header_name);
			r->header_name = NULL;
			set_failure(r, -ENOMEM);
		}
	}
	post_answer(r);
}

/* ---- streams of messages ---- */

static void run_stream_start(struct loop_post *post)
{
	struct server_request *r = request_of_post(post);
	struct server_stream *stream = r->stream;

	leave_reserve(r); /* it stays */
	if (!r->connection) {
		r->stream = NULL;
		request_free(r);
		stream_finish(stream);
		return;
	}
	give_back_body(r);
	r->state = REQUEST_STREAMING;
	stream->request = r;
	request_submit(r);
	if (r->loop->server->draining)
		server_stream_end(stream);
}

struct server_stream *server_stream_start(struct server_request *r, server_ended *ended,
					  void *context)
{
	struct server_stream *stream = calloc(1, sizeof(*stream));

	if (!stream) {
		set_failure(r, -ENOMEM);
		post_answer(r);
		return NULL;
	}
	stream->server = r->loop->server;
	stream->loop = r->loop;
	stream->ended = ended;
	stream->context = context;
	stream->references = 2;
	pthread_mutex_init(&stream->lock, NULL);
	server_ref(stream->server);
	stream->server->counters.streams++;
	r->stream = stream;
	set_answer(r, 200, FRAME_CONTENT_TYPE);
	r->post.run = run_stream_start;
	if (!loop_post(r->loop, &r->post))
		run_stream_start(&r->post); /* without a connection: it ends at once */
	return stream;
}

static void run_stream(struct loop_post *post)
{
	struct server_stream *stream = stream_of_post(post);
	struct server_request *r = stream->request;
	bool aborting;

	pthread_mutex_lock(&stream->lock);
	stream->posted = false;
	aborting = stream->aborting;
	pthread_mutex_unlock(&stream->lock);
	if (r && r->connection) {
		if (aborting)
			(void)nghttp2_submit_rst_stream(r->connection->session, NGHTTP2_FLAG_NONE,
							r->stream_id, NGHTTP2_ENHANCE_YOUR_CALM);
		else /* an error says that it is not waiting: then it will look by itself */
			(void)nghttp2_session_resume_data(r->connection->session, r->stream_id);
		loop_mark_dirty(r->loop, r->connection);
	}
	stream_unref(stream);
}

/* With the stream's lock held: true when the caller is to post it after unlocking. */
static bool stream_mark_posted(struct server_stream *stream)
{
	if (stream->posted || stream->is_ended)
		return false;
	stream->posted = true;
	stream->references++;
	stream->post.run = run_stream;
	return true;
}

static void stream_post(struct server_stream *stream)
{
	if (!loop_post(stream->loop, &stream->post))
		stream_unref(stream);
}

static int backlog_add(struct server_stream *stream, const uint8_t *data, size_t length)
{
	size_t wanted = stream->backlog_length + length;
	size_t capacity = stream->backlog_capacity ? stream->backlog_capacity : 4096;
	uint8_t *backlog;

	if (wanted > BACKLOG_BYTES_MAX)
		return -ENOBUFS;
	if (stream->backlog_at > 0) {
		memmove(stream->backlog, stream->backlog + stream->backlog_at,
			stream->backlog_length);
		stream->backlog_at = 0;
	}
	while (capacity < wanted)
		capacity *= 2;
	if (capacity > stream->backlog_capacity) {
		backlog = realloc(stream->backlog, capacity);
		if (!backlog)
			return -ENOBUFS;
		stream->backlog = backlog;
		stream->backlog_capacity = capacity;
	}
	memcpy(stream->backlog + stream->backlog_length, data, length);
	stream->backlog_length = wanted;
	return 0;
}

int server_stream_send(struct server_stream *stream, const struct message *message)
{
	uint8_t buffer[REPLY_INLINE_BYTES];
	uint8_t *data;
	size_t length;
	bool post;
	int error = frame_encode(message, buffer, sizeof(buffer), &data, &length);

	if (error)
		return error;
	pthread_mutex_lock(&stream->lock);
	if (stream->is_ended || stream->ending || stream->aborting)
		error = -EPIPE;
	else
		error = backlog_add(stream, data, length);
	if (error == -ENOBUFS)
		stream->aborting = true;
	post = error != -EPIPE && stream_mark_posted(stream);
	pthread_mutex_unlock(&stream->lock);
	if (data != buffer)
		free(data);
	if (post)
		stream_post(stream);
	return error;
}

void server_stream_end(struct server_stream *stream)
{
	bool post;

	pthread_mutex_lock(&stream->lock);
	stream->ending = true;
	post = stream_mark_posted(stream);
	pthread_mutex_unlock(&stream->lock);
	if (post)
		stream_post(stream);
}

void server_stream_unref(struct server_stream *stream)
{
	if (stream)
		stream_unref(stream);
}
