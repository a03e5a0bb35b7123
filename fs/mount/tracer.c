#include "fs/mount/tracer.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "prefetch/trace.h"

#define COMMENT_BYTES_MAX 64u

void tracer_init(struct tracer *t)
{
	*t = (struct tracer){ .text = NULL };
	pthread_mutex_init(&t->lock, NULL);
}

void tracer_finish(struct tracer *t)
{
	free(t->text);
	pthread_mutex_destroy(&t->lock);
}

static void end(struct tracer *t)
{
	free(t->text);
	t->text = NULL;
	t->length = 0;
	t->dropped = 0;
	t->on = false;
}

void tracer_access(struct tracer *t, struct instant now, const struct access *access)
{
	const struct trace_line line = { .access = *access };
	struct instant previous;
	struct writer w;

	if (!atomic_load_explicit(&t->on, memory_order_relaxed))
		return;
	pthread_mutex_lock(&t->lock);
	if (t->on && instant_before(t->ends, now))
		end(t);
	if (t->on) {
		previous = t->previous;
		w = writer_of(t->text + t->length, TRACER_BYTES_MAX - t->length);
		trace_write(&w, &line, &previous);
		if (w.failed) {
			t->dropped++;
		} else {
			t->length += w.at;
			t->previous = previous;
		}
	}
	pthread_mutex_unlock(&t->lock);
}

/* How much of the text there is in whole lines of up to `size` bytes. */
static size_t whole_lines(const struct tracer *t, size_t size)
{
	size_t length = t->length < size ? t->length : size;

	while (length > 0 && t->text[length - 1] != '\n')
		length--;
	return length;
}

int tracer_take(struct tracer *t, struct instant now, char *buffer, size_t size, size_t *ret_length)
{
	size_t length = 0;
	int r = 0;

	pthread_mutex_lock(&t->lock);
	if (t->on && instant_before(t->ends, now))
		end(t); /* what is left is for somebody who went away */
	if (!t->on) {
		t->text = malloc(TRACER_BYTES_MAX);
		t->on = t->text != NULL;
		t->previous = now;
		r = t->text ? 0 : -ENOMEM;
	} else {
		length = whole_lines(t, size > COMMENT_BYTES_MAX ? size - COMMENT_BYTES_MAX : 0);
		memcpy(buffer, t->text, length);
		t->length -= length;
		memmove(t->text, t->text + length, t->length);
		if (t->dropped && size > COMMENT_BYTES_MAX) {
			length += (size_t)snprintf(buffer + length, COMMENT_BYTES_MAX,
						   "# dropped %" PRIu64 "\n", t->dropped);
			t->dropped = 0;
		}
	}
	t->ends = instant_add(now, TRACER_LASTS);
	pthread_mutex_unlock(&t->lock);
	*ret_length = length;
	return r;
}
