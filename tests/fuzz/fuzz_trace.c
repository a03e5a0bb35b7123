/*
 * Whatever the text: it is refused with a line number and what was expected, or each line, written and
 * read again, is the same; and a replay of it ends.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "prefetch/replay.h"
#include "prefetch/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void *resize(void *context, void *pointer, size_t old_size, size_t size)
{
	if (size == 0) {
		free(pointer);
		return NULL;
	}
	return realloc(pointer, size);
}

static const struct allocator allocator = { resize, NULL };

static void write_and_read(const struct trace_line *line, struct instant before)
{
	static const size_t header = sizeof(TRACE_HEADER) - 1;
	uint8_t text[sizeof(TRACE_HEADER) + TRACE_LINE_MAX] = TRACE_HEADER;
	struct writer w = writer_of(text + header, TRACE_LINE_MAX);
	struct trace_reader r;
	struct trace_line again;

	trace_write(&w, line, &before);
	assert(!w.failed);
	trace_reader_init(&r, (struct slice){ text, header + w.at });
	assert(trace_next(&r, &again) == 1);
	assert(again.entry == line->entry && again.access.type == line->access.type);
	assert(again.access.inode == line->access.inode);
	assert(again.access.directory == line->access.directory);
	assert(again.access.reader == line->access.reader);
	assert(again.access.size == line->access.size && again.access.offset == line->access.offset);
	assert(again.access.length == line->access.length);
	assert(again.access.files == line->access.files);
	assert(again.access.directories == line->access.directories);
	assert(again.access.cached == line->access.cached);
	assert(again.access.file_type == line->access.file_type);
	assert(slice_equal(again.access.name, line->access.name));
	assert(trace_next(&r, &again) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct replay_config config = { .round_trip = duration_ms(20), .rate = 65536, .predict = true,
					.cache_bytes = 1 << 20,
					.predictors = { .files_max = 16, .epoch_entries_max = 64 } };
	struct replay_result result;
	struct trace_reader r;
	struct trace_line line;
	struct instant before = { 0 };
	const char *expected = NULL;
	uint32_t number = 0;
	int next, replayed;

	trace_reader_init(&r, (struct slice){ data, size });
	while ((next = trace_next(&r, &line)) > 0) {
		write_and_read(&line, before);
		if (!line.entry)
			before = line.access.at;
	}
	assert(next == 0 || (r.expected && r.line > 0));
	replayed = replay_run((struct slice){ data, size }, &config, &allocator, &result, &number,
			      &expected);
	assert(replayed == next);
	assert(next == 0 || (expected == r.expected && number == r.line));
	return 0;
}
