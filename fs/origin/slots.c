#include "fs/origin/slots.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC UINT64_C(0x3173746f6c534c01)
#define VERSION 1u
#define HEADER_BYTES 4096u
#define LOCKS 64u /* places of sessions share them */

enum record_state {
	RECORD_NONE = 0,
	RECORD_WRITING = 1, /* killed in here, an intent still stands and decides it */
	RECORD_REPLY = 2,
	RECORD_UNKNOWN = 3, /* it was executed, or may have been */
};

struct record {
	_Atomic uint32_t state;
	uint32_t length;
	_Atomic uint64_t sequence;
	uint8_t reply[SLOTS_REPLY_BYTES_MAX];
	uint8_t reserved[16];
};
_Static_assert(sizeof(struct record) == 1280, "a file of an earlier build would be misread");

enum place_state { PLACE_FREE = 0, PLACE_SET = 1 };

struct slots_session {
	_Atomic uint32_t state;
	uint32_t reserved;
	uint64_t age; /* places are in the order in which they were set */
	struct slots_owner owner;
	uint8_t padding[1024 - 16 - sizeof(struct slots_owner)];
	struct record records[SLOTS_PER_SESSION_MAX];
};
_Static_assert(sizeof(struct slots_session) == 1024 + 64 * 1280, "see struct record");

enum intent_state { INTENT_NONE = 0, INTENT_STANDS = 1 };

struct header {
	uint64_t magic;
	uint32_t version;
	uint32_t item_bytes; /* another build, another layout */
	uint32_t high;       /* places that were ever taken; the file is allocated up to there */
};

struct mapping {
	int fd;
	struct header *header;
	size_t bytes;
};

struct slots {
	struct mapping places, intents;
	uint32_t place_count; /* that fit */
	uint32_t intent_count;
	uint64_t age_last;
	pthread_mutex_t place_lock, intent_lock; /* which are taken */
	bool *place_taken;
	bool *intent_taken;
	pthread_mutex_t locks[LOCKS];
};

static struct slots_session *place_at(const struct slots *s, uint32_t index)
{
	return (struct slots_session *)((char *)s->places.header + HEADER_BYTES) + index;
}

static uint32_t place_index(const struct slots *s, const struct slots_session *session)
{
	return (uint32_t)(session - place_at(s, 0));
}

static struct slots_intent *intent_at(const struct slots *s, uint32_t index)
{
	return (struct slots_intent *)((char *)s->intents.header + HEADER_BYTES) + index;
}

/* ---- opening ---- */

/*
 * Maps `bytes` of the file, or all of it when it is longer, of a run with more places. Only the
 * first `allocated` are there for certain; the rest becomes so when it is taken.
 */
static int map_file(int state_fd, const char *name, size_t bytes, size_t allocated,
		    struct mapping *ret_mapping)
{
	struct mapping m = { .bytes = bytes };
	struct stat st;
	int error = 0;

	m.fd = openat(state_fd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (m.fd < 0)
		return -errno;
	if (fstat(m.fd, &st) < 0)
		error = -errno;
	else if (!S_ISREG(st.st_mode))
		error = -EINVAL;
	else if ((size_t)st.st_size > bytes)
		m.bytes = (size_t)st.st_size;
	if (!error)
		error = -posix_fallocate(m.fd, 0, (off_t)allocated);
	if (!error) {
		void *map = mmap(NULL, m.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, m.fd, 0);

		if (map == MAP_FAILED)
			error = -errno;
		else
			m.header = (struct header *)map;
	}
	if (error) {
		close(m.fd);
		return error;
	}
	*ret_mapping = m;
	return 0;
}

static bool header_valid(const struct mapping *m, size_t item_bytes)
{
	struct stat st;

	return m->header->magic == MAGIC && m->header->version == VERSION &&
	       m->header->item_bytes == item_bytes &&
	       m->header->high <= (m->bytes - HEADER_BYTES) / item_bytes &&
	       fstat(m->fd, &st) == 0 &&
	       (size_t)st.st_size >= HEADER_BYTES + m->header->high * item_bytes;
}

static void header_make(struct mapping *m, size_t item_bytes)
{
	*m->header = (struct header){ MAGIC, VERSION, (uint32_t)item_bytes, 0 };
}

static bool place_valid(const struct slots_session *place)
{
	const struct slots_owner *owner = &place->owner;

	return owner->session != 0 && owner->slot_count > 0 &&
	       owner->slot_count <= SLOTS_PER_SESSION_MAX &&
	       memchr(owner->peer, 0, sizeof(owner->peer));
}

static bool intent_valid(const struct slots_intent *intent)
{
	for (unsigned i = 0; i < SLOTS_INODES; i++)
		if (intent->inodes[i].handle.length > HANDLE_BYTES_MAX)
			return false;
	return intent->message_length <= SLOTS_MESSAGE_BYTES_MAX &&
	       intent->data_length <= BULK_BYTES_MAX;
}

/* Marks what is in use. False: it is damaged. */
static bool load(struct slots *s)
{
	struct header *places = s->places.header, *intents = s->intents.header;

	if (!header_valid(&s->places, sizeof(struct slots_session)) ||
	    !header_valid(&s->intents, sizeof(struct slots_intent)))
		return false;
	for (uint32_t i = 0; i < places->high; i++) {
		const struct slots_session *place = place_at(s, i);

		if (atomic_load(&place->state) == PLACE_FREE)
			continue;
		if (atomic_load(&place->state) != PLACE_SET || !place_valid(place))
			return false;
		s->place_taken[i] = true;
		if (s->age_last < place->age)
			s->age_last = place->age;
	}
	for (uint32_t i = 0; i < intents->high; i++)
		if (atomic_load(&intent_at(s, i)->state) == INTENT_STANDS) {
			if (!intent_valid(intent_at(s, i)))
				return false;
			s->intent_taken[i] = true;
		}
	return true;
}

static void start_afresh(struct slots *s)
{
	/* The places count from 0 again, and are cleared when they are set. */
	header_make(&s->places, sizeof(struct slots_session));
	header_make(&s->intents, sizeof(struct slots_intent));
	memset(s->place_taken, 0, s->place_count * sizeof(*s->place_taken));
	memset(s->intent_taken, 0, s->intent_count * sizeof(*s->intent_taken));
	for (uint32_t i = 0; i < s->intent_count; i++)
		atomic_store(&intent_at(s, i)->state, INTENT_NONE);
	s->age_last = 0;
}

static int map_both(struct slots *s, int state_fd, uint32_t session_count, uint32_t intent_count)
{
	size_t places = HEADER_BYTES + (size_t)session_count * sizeof(struct slots_session);
	size_t intents = HEADER_BYTES + (size_t)intent_count * sizeof(struct slots_intent);
	int error = map_file(state_fd, "slots", places, HEADER_BYTES, &s->places);

	if (!error)
		error = map_file(state_fd, "intents", intents, intents, &s->intents);
	if (error)
		return error;
	s->place_count = (uint32_t)((s->places.bytes - HEADER_BYTES) /
				    sizeof(struct slots_session));
	s->intent_count = (uint32_t)((s->intents.bytes - HEADER_BYTES) /
				     sizeof(struct slots_intent));
	s->place_taken = (bool *)calloc(s->place_count, sizeof(*s->place_taken));
	s->intent_taken = (bool *)calloc(s->intent_count, sizeof(*s->intent_taken));
	return s->place_taken && s->intent_taken ? 0 : -ENOMEM;
}

int slots_open(int state_fd, uint32_t session_count_max, uint32_t intent_count, bool reset,
	       struct slots **ret_slots, const char **ret_text)
{
	struct slots *s = (struct slots *)calloc(1, sizeof(*s));
	const char *text = NULL;
	bool fresh;
	int error;

	if (!s)
		return -ENOMEM;
	pthread_mutex_init(&s->place_lock, NULL);
	pthread_mutex_init(&s->intent_lock, NULL);
	for (unsigned i = 0; i < LOCKS; i++)
		pthread_mutex_init(&s->locks[i], NULL);
	s->places.fd = s->intents.fd = -1;
	error = map_both(s, state_fd, session_count_max, intent_count);
	if (error) {
		slots_close(s);
		return error;
	}
	fresh = s->places.header->magic == 0 && s->intents.header->magic == 0;
	if (!reset && !fresh && !load(s)) {
		text = "the record of what was done in sessions was damaged, or another version's";
		reset = true;
	}
	if (reset || fresh)
		start_afresh(s);
	s->intents.header->high = s->intent_count;
	*ret_slots = s;
	*ret_text = text;
	return 0;
}

static void unmap_file(struct mapping *m)
{
	if (m->header)
		munmap(m->header, m->bytes);
	if (m->fd >= 0)
		close(m->fd);
}

int slots_sync(struct slots *s)
{
	return fsync(s->places.fd) < 0 || fsync(s->intents.fd) < 0 ? -errno : 0;
}

void slots_close(struct slots *s)
{
	if (!s)
		return;
	unmap_file(&s->places);
	unmap_file(&s->intents);
	pthread_mutex_destroy(&s->place_lock);
	pthread_mutex_destroy(&s->intent_lock);
	for (unsigned i = 0; i < LOCKS; i++)
		pthread_mutex_destroy(&s->locks[i]);
	free(s->place_taken);
	free(s->intent_taken);
	free(s);
}

/* ---- sessions ---- */

/* The lowest that is free, so that the file stays as short as it can. */
static int place_reserve(struct slots *s, uint32_t *ret_index)
{
	struct header *h = s->places.header;
	uint32_t index = 0;

	while (index < h->high && s->place_taken[index])
		index++;
	if (index == s->place_count)
		return -EAGAIN;
	if (index == h->high) {
		off_t at = (off_t)(HEADER_BYTES + (size_t)index * sizeof(struct slots_session));
		int error = posix_fallocate(s->places.fd, at, sizeof(struct slots_session));

		if (error)
			return -error;
		atomic_store(&place_at(s, index)->state, PLACE_FREE);
		h->high++;
	}
	s->place_taken[index] = true;
	*ret_index = index;
	return 0;
}

int slots_session_take(struct slots *s, struct slots_session **ret_session)
{
	uint32_t index;
	int error;

	pthread_mutex_lock(&s->place_lock);
	error = place_reserve(s, &index);
	pthread_mutex_unlock(&s->place_lock);
	if (error)
		return error;
	for (uint32_t i = 0; i < SLOTS_PER_SESSION_MAX; i++) {
		struct record *record = &place_at(s, index)->records[i];

		atomic_store(&record->state, RECORD_NONE);
		atomic_store(&record->sequence, 0);
	}
	*ret_session = place_at(s, index);
	return 0;
}

void slots_session_set(struct slots *s, struct slots_session *session,
		       const struct slots_owner *owner)
{
	assert(owner->slot_count > 0 && owner->slot_count <= SLOTS_PER_SESSION_MAX);
	session->owner = *owner;
	pthread_mutex_lock(&s->place_lock);
	session->age = ++s->age_last;
	pthread_mutex_unlock(&s->place_lock);
	atomic_store(&session->state, PLACE_SET);
}

void slots_session_release(struct slots *s, struct slots_session *session)
{
	if (!session)
		return;
	atomic_store(&session->state, PLACE_FREE);
	pthread_mutex_lock(&s->place_lock);
	s->place_taken[place_index(s, session)] = false;
	pthread_mutex_unlock(&s->place_lock);
}

struct slots_session *slots_session_next(struct slots *s, const struct slots_session *before)
{
	struct slots_session *next = NULL;

	for (uint32_t i = 0; i < s->places.header->high; i++) {
		struct slots_session *place = place_at(s, i);

		if (atomic_load(&place->state) == PLACE_SET &&
		    (!before || place->age > before->age) && (!next || place->age < next->age))
			next = place;
	}
	return next;
}

void slots_session_owner(const struct slots_session *session, struct slots_owner *ret_owner)
{
	*ret_owner = session->owner;
}

uint64_t slots_sequence(const struct slots_session *session, uint32_t slot)
{
	const struct record *record = &session->records[slot];
	uint64_t sequence = atomic_load(&record->sequence);

	/* Killed while it stored what left nothing behind, or an intent would have decided it: as
	   if it had not come. */
	return sequence && atomic_load(&record->state) == RECORD_WRITING ? sequence - 1 : sequence;
}

static pthread_mutex_t *lock_of(struct slots *s, const struct slots_session *session)
{
	return &s->locks[place_index(s, session) % LOCKS];
}

void slots_store(struct slots *s, struct slots_session *session, uint32_t slot, uint64_t sequence,
		 const struct message_reply *reply)
{
	struct record *record = &session->records[slot];
	struct message message = { .type = MESSAGE_reply };
	struct writer w;

	assert(slot < session->owner.slot_count);
	pthread_mutex_lock(lock_of(s, session));
	/* A later request may have taken the slot while this one was being applied. */
	if (sequence >= atomic_load(&record->sequence)) {
		atomic_store(&record->state, RECORD_WRITING);
		atomic_store(&record->sequence, sequence);
		w = writer_of(record->reply, sizeof(record->reply));
		if (reply) {
			message.reply = *reply;
			message_encode(&w, &message);
		}
		record->length = (uint32_t)w.at;
		atomic_store(&record->state, reply && !w.failed ? RECORD_REPLY : RECORD_UNKNOWN);
	}
	pthread_mutex_unlock(lock_of(s, session));
}

bool slots_load(struct slots *s, struct slots_session *session, uint32_t slot, uint64_t sequence,
		uint8_t buffer[SLOTS_REPLY_BYTES_MAX], struct message_reply *ret_reply)
{
	const struct record *record = &session->records[slot];
	struct message message;
	uint32_t length = 0;

	if (slot >= session->owner.slot_count)
		return false;
	pthread_mutex_lock(lock_of(s, session));
	if (atomic_load(&record->state) == RECORD_REPLY &&
	    atomic_load(&record->sequence) == sequence &&
	    record->length <= sizeof(record->reply)) {
		length = record->length;
		memcpy(buffer, record->reply, length);
	}
	pthread_mutex_unlock(lock_of(s, session));
	if (message_decode((struct slice){ buffer, length }, &message) ||
	    message.type != MESSAGE_reply)
		return false;
	*ret_reply = message.reply;
	return true;
}

/* ---- intents ---- */

struct slots_intent *slots_intent_take(struct slots *s)
{
	uint32_t index = 0;

	pthread_mutex_lock(&s->intent_lock);
	while (index < s->intent_count && s->intent_taken[index])
		index++;
	assert(index < s->intent_count);
	s->intent_taken[index] = true;
	pthread_mutex_unlock(&s->intent_lock);
	return intent_at(s, index);
}

void slots_intent_begin(struct slots_intent *intent)
{
	atomic_store(&intent->state, INTENT_STANDS);
}

void slots_intent_end(struct slots *s, struct slots_intent *intent)
{
	atomic_store(&intent->state, INTENT_NONE);
	pthread_mutex_lock(&s->intent_lock);
	s->intent_taken[intent - intent_at(s, 0)] = false;
	pthread_mutex_unlock(&s->intent_lock);
}

struct slots_intent *slots_intent_found(struct slots *s)
{
	for (uint32_t i = 0; i < s->intent_count; i++)
		if (s->intent_taken[i] && atomic_load(&intent_at(s, i)->state) == INTENT_STANDS)
			return intent_at(s, i);
	return NULL;
}
