/*
 * Whatever became of the files of slots and intents: they are started afresh, or all that they say is
 * within bounds; and what is recorded then is there in the next run.
 *
 * The input is what happened to the files of a run with a session, a kept reply and an intent that
 * stands: items of which file (1 bit: intents; 2: it is cut off there), u32 offset, u8 length, bytes.
 */
#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/origin/slots.h"
#include "lease/base/bytes.h"

#define SESSIONS 2
#define INTENTS 1
#define SESSION 7
#define SLOT_COUNT 4

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const names[2] = { "slots", "intents" };
static char path[] = "/tmp/fuzz-slots-XXXXXX";
static int state_fd = -1;

static void clean_up(void)
{
	for (unsigned i = 0; i < 2; i++)
		(void)unlinkat(state_fd, names[i], 0); /* or it was never made */
	(void)close(state_fd);
	(void)rmdir(path);
}

static void need(bool good)
{
	if (!good)
		abort(); /* of the machine, and no finding */
}

static void prepare(void)
{
	if (state_fd >= 0)
		return;
	need(mkdtemp(path));
	state_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	need(state_fd >= 0 && atexit(clean_up) == 0);
}

static struct slots *open_slots(bool reset, const char **ret_text)
{
	struct slots *s;

	need(slots_open(state_fd, SESSIONS, INTENTS, reset, &s, ret_text) == 0);
	return s;
}

static struct slots_session *make_session(struct slots *s, uint64_t session)
{
	const struct slots_owner owner = { .session = session, .host = { 1 }, .peer = "host",
					   .export_id = 3, .slot_count = SLOT_COUNT };
	struct slots_session *place;

	if (slots_session_take(s, &place))
		return NULL;
	slots_session_set(s, place, &owner);
	return place;
}

static void store(struct slots *s, struct slots_session *place, uint64_t sequence)
{
	const struct message_reply reply = { .count = 5 };

	slots_store(s, place, 1, sequence, &reply);
}

static bool loads(struct slots *s, struct slots_session *place, uint32_t slot, uint64_t sequence)
{
	uint8_t buffer[SLOTS_REPLY_BYTES_MAX];
	struct message_reply reply;

	return slots_load(s, place, slot, sequence, buffer, &reply);
}

/* The files as a run left them that was killed. */
static void make_files(void)
{
	struct message message = { .type = MESSAGE_unlink, .unlink = { .name = slice_of("name") } };
	struct slots_session *place;
	struct slots_intent *intent;
	const char *text;
	struct slots *s;
	struct writer w;

	for (unsigned i = 0; i < 2; i++)
		(void)unlinkat(state_fd, names[i], 0); /* of the input before, or of none */
	s = open_slots(false, &text);
	assert(!text);
	place = make_session(s, SESSION);
	need(place);
	store(s, place, 2);
	intent = slots_intent_take(s);
	intent->session = SESSION;
	intent->slot = 1;
	intent->sequence = 3;
	w = writer_of(intent->message, sizeof(intent->message));
	message_encode(&w, &message);
	intent->message_length = (uint32_t)w.at;
	slots_intent_begin(intent);
	slots_close(s);
}

static void damage(const uint8_t *data, size_t size)
{
	struct reader r = reader_of(data, size);

	while (r.at < size) {
		uint8_t what = reader_u8(&r);
		uint32_t offset = reader_u32(&r);
		struct slice bytes = reader_bytes(&r, reader_u8(&r));
		int fd = openat(state_fd, names[what & 1], O_RDWR | O_CLOEXEC);
		struct stat st;

		need(fd >= 0 && fstat(fd, &st) == 0 && st.st_size > 0);
		offset %= (uint32_t)st.st_size;
		if (!r.failed && (what & 2))
			need(ftruncate(fd, offset) == 0);
		else if (!r.failed && bytes.length)
			need(pwrite(fd, bytes.data, bytes.length, offset) == (ssize_t)bytes.length);
		need(close(fd) == 0);
		if (r.failed)
			return;
	}
}

static void look_at_sessions(struct slots *s)
{
	struct slots_session *place = NULL;
	volatile uint64_t sum = 0; /* for the sanitizer's sake */
	unsigned count = 0;

	while ((place = slots_session_next(s, place))) {
		struct slots_owner owner;

		assert(++count <= SESSIONS + 64); /* a longer file has more places */
		slots_session_owner(place, &owner);
		assert(owner.session != 0 && owner.slot_count <= SLOTS_PER_SESSION_MAX);
		sum += strlen(owner.peer);
		for (uint32_t i = 0; i < owner.slot_count; i++) {
			sum += slots_sequence(place, i);
			sum += loads(s, place, i, slots_sequence(place, i));
		}
		assert(!loads(s, place, owner.slot_count, 0));
	}
	(void)sum;
}

static void look_at_intents(struct slots *s)
{
	struct slots_intent *intent;
	struct message message;

	while ((intent = slots_intent_found(s))) {
		assert(intent->message_length <= sizeof(intent->message));
		assert(intent->data_length <= sizeof(intent->data));
		for (unsigned i = 0; i < SLOTS_INODES; i++)
			assert(intent->inodes[i].handle.length <= HANDLE_BYTES_MAX);
		(void)!message_decode((struct slice){ intent->message, intent->message_length },
				      &message);
		slots_intent_end(s, intent);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct slots_session *place, *other;
	const char *text;
	struct slots *s;

	prepare();
	make_files();
	damage(data, size);
	s = open_slots(false, &text);
	look_at_sessions(s);
	look_at_intents(s);
	place = make_session(s, SESSION + 1);
	if (place)
		store(s, place, 9);
	slots_close(s);

	s = open_slots(false, &text);
	assert(!text); /* nothing is damaged any more */
	look_at_sessions(s);
	assert(!slots_intent_found(s));
	for (other = NULL; place && (other = slots_session_next(s, other));) {
		struct slots_owner owner;

		slots_session_owner(other, &owner);
		if (owner.session == SESSION + 1 && slots_sequence(other, 1) == 9)
			break;
	}
	assert(!place || (other && loads(s, other, 1, 9)));
	slots_close(s);
	return 0;
}
