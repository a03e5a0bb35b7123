#include "prefetch/ledger.h"

#include <assert.h>
#include <errno.h>

#include "lease/base/rng.h"
#include "prefetch/table.h"

#define OVERDUE_MIN 4096u
#define OVERDUE_FACTOR 8u
/* Entries that are looked at for that in each access: all of them within 8,192. */
#define LOOK_ENTRIES 4u

/* What a request costs beside its bytes, in the same unit: a round trip is worth that much. */
#define REQUEST_BYTES (UINT64_C(64) << 10)
/*
 * A predictor falls silent in a scope when this much was decided (128 small requests, or 8 MiB), and less
 * than one part in five of it was used. Everywhere: eight times as much.
 */
#define SCOPE_WEIGHT_MIN (UINT64_C(8) << 20)
#define ALL_WEIGHT_MIN (8 * SCOPE_WEIGHT_MIN)
#define USED_SHARE_MIN 5
/* What is decided is halved at this multiple: what was long ago counts less. */
#define WEIGHT_HALVED 4
#define CARDS_MAX 1024u
/* When silent, one guess in so many is made; twice as many when that was wasted too, up to the second. */
#define PROBE_MIN 64u
#define PROBE_MAX 4096u

struct entry {
	struct table_entry head; /* key: of inode and piece */
	uint64_t inode, start, scope;
	uint64_t overdue; /* the access by which it should have been used */
	uint32_t length, used;
	uint8_t predictor;
	bool arrived, late;
};

/* What came of the guesses of a predictor in a scope. */
struct card {
	struct table_entry head;
	uint64_t used, wasted; /* weights, halved now and then */
	uint32_t guesses;      /* since it fell silent */
	uint32_t probe;        /* one in so many; 0: not silent */
};

struct ledger {
	const struct allocator *allocator;
	struct table entries, cards;
	struct card all[PREDICTOR_COUNT];
	struct ledger_counts counts[PREDICTOR_COUNT];
	uint32_t undecided[PREDICTOR_COUNT]; /* entries */
	uint64_t accesses;
	uint32_t look;
};

int ledger_create(uint32_t entries_max, const struct allocator *allocator, struct ledger **ret_ledger)
{
	struct ledger *l = allocator->resize(allocator->context, NULL, 0, sizeof(*l));

	if (!l)
		return -ENOMEM;
	memset(l, 0, sizeof(*l));
	l->allocator = allocator;
	if (table_init(&l->entries, allocator, entries_max ? entries_max : LEDGER_ENTRIES_DEFAULT,
		       sizeof(struct entry)) ||
	    table_init(&l->cards, allocator, CARDS_MAX, sizeof(struct card))) {
		ledger_destroy(l);
		return -ENOMEM;
	}
	*ret_ledger = l;
	return 0;
}

void ledger_destroy(struct ledger *l)
{
	if (!l)
		return;
	if (l->entries.allocator)
		table_finish(&l->entries);
	if (l->cards.allocator)
		table_finish(&l->cards);
	l->allocator->resize(l->allocator->context, l, sizeof(*l), 0);
}

/* ---- who may guess ---- */

static uint64_t card_key(enum predictor_id predictor, uint64_t scope)
{
	return rng_mix(rng_mix(scope) + (uint64_t)predictor);
}

static struct card *find_card(struct ledger *l, enum predictor_id predictor, uint64_t scope)
{
	uint64_t key = card_key(predictor, scope);
	struct card *card = table_get(&l->cards, key);

	return card ? card : table_add(&l->cards, key, NULL);
}

static void judge(struct card *card, uint64_t used, uint64_t wasted, uint64_t weight_min)
{
	card->used += used;
	card->wasted += wasted;
	if (card->used + card->wasted > WEIGHT_HALVED * weight_min) {
		card->used /= 2;
		card->wasted /= 2;
	}
	if (card->probe && used) { /* what a guess showed counts for more than what was before */
		card->wasted /= 2;
		card->guesses = 0;
	} else if (card->probe && card->guesses && card->probe < PROBE_MAX) {
		card->probe *= 2;
		card->guesses = 0;
	}
	if (card->used + card->wasted < weight_min ||
	    card->used * USED_SHARE_MIN >= card->used + card->wasted)
		card->probe = 0;
	else if (!card->probe)
		card->probe = PROBE_MIN;
}

static void decide(struct ledger *l, const struct entry *e, uint64_t used, uint64_t wasted)
{
	enum predictor_id predictor = (enum predictor_id)e->predictor;

	judge(&l->all[predictor], used, wasted, ALL_WEIGHT_MIN);
	if (e->scope)
		judge(find_card(l, predictor, e->scope), used, wasted, SCOPE_WEIGHT_MIN);
}

static bool card_allows(struct card *card)
{
	if (!card->probe)
		return true;
	return ++card->guesses % card->probe == 0;
}

bool ledger_allows(struct ledger *l, enum predictor_id predictor, uint64_t scope)
{
	struct card *card = scope ? table_get(&l->cards, card_key(predictor, scope)) : NULL;

	if (card_allows(&l->all[predictor]) && (!card || card_allows(card)))
		return true;
	l->counts[predictor].silenced++;
	return false;
}

bool ledger_silent(const struct ledger *l, enum predictor_id predictor, uint64_t scope)
{
	const struct card *card = scope ? table_peek(&l->cards, card_key(predictor, scope)) : NULL;

	return l->all[predictor].probe || (card && card->probe);
}

/* ---- what became of it ---- */

static uint64_t piece_key(enum predictor_id predictor, uint64_t inode, uint64_t offset)
{
	uint64_t piece = offset == LEDGER_LISTING ? UINT64_MAX / 8 : offset / LEDGER_PIECE_BYTES;

	return rng_mix(rng_mix(inode) + piece * 8 + (uint64_t)predictor);
}

static void waste(struct ledger *l, struct entry *e)
{
	struct ledger_counts *counts = &l->counts[e->predictor];
	uint32_t left = e->length - e->used;

	counts->wasted_bytes += left;
	if (e->used) {
		counts->used_count++;
		decide(l, e, e->used + REQUEST_BYTES, left);
	} else {
		counts->wasted_count++;
		decide(l, e, 0, left + REQUEST_BYTES);
	}
}

static void forget(struct ledger *l, const struct entry *e)
{
	l->undecided[e->predictor]--;
	table_remove(&l->entries, e->head.key);
}

static void expire(struct ledger *l, struct entry *e)
{
	waste(l, e);
	forget(l, e);
}

/* One piece at a time: calls `what` for each that lies in [offset, offset + length). */
static bool next_piece(uint64_t *offset, uint64_t *length, uint64_t *ret_offset, uint32_t *ret_length)
{
	uint64_t end;

	if (*length == 0)
		return false;
	*ret_offset = *offset;
	if (*offset == LEDGER_LISTING) {
		*ret_length = (uint32_t)(*length < UINT32_MAX ? *length : UINT32_MAX);
		*length = 0;
		return true;
	}
	end = (*offset / LEDGER_PIECE_BYTES + 1) * LEDGER_PIECE_BYTES;
	if (end - *offset > *length)
		end = *offset + *length;
	*ret_length = (uint32_t)(end - *offset);
	*length -= end - *offset;
	*offset = end;
	return true;
}

static void add(struct ledger *l, const struct ledger_item *item, uint64_t offset, uint32_t length)
{
	struct ledger_counts *counts = &l->counts[item->predictor];
	uint64_t key = piece_key(item->predictor, item->inode, offset);
	struct entry *e = table_peek(&l->entries, key), gone;

	if (e && (e->inode != item->inode || offset > e->start + e->length ||
		  offset + length < e->start || offset == LEDGER_LISTING)) {
		/* Another request in the same piece, apart from it: that one is not known any more. */
		expire(l, e);
		e = NULL;
	}
	if (e) { /* it grows */
		uint64_t start = offset < e->start ? offset : e->start;
		uint64_t end = offset + length > e->start + e->length ? offset + length :
									e->start + e->length;
		uint32_t grown = (uint32_t)(end - start) - e->length;

		if (grown)
			e->arrived = false;
		l->counts[e->predictor].fetched_bytes += grown;
		e->start = start;
		e->length += grown;
		return;
	}
	e = table_add(&l->entries, key, &gone);
	if (gone.head.used) {
		waste(l, &gone);
		l->undecided[gone.predictor]--;
	}
	l->undecided[item->predictor]++;
	e->inode = item->inode;
	e->start = offset;
	e->length = length;
	e->scope = item->scope;
	e->predictor = (uint8_t)item->predictor;
	e->overdue = l->accesses + OVERDUE_MIN + (uint64_t)OVERDUE_FACTOR * item->distance;
	counts->fetched_bytes += length;
	counts->fetched_count++;
}

void ledger_sent(struct ledger *l, const struct ledger_item *item)
{
	uint64_t offset = item->offset, length = item->length, start;
	uint32_t bytes;

	assert(item->predictor < PREDICTOR_COUNT);
	if (offset != LEDGER_LISTING && offset > UINT64_MAX - length - LEDGER_PIECE_BYTES)
		return;
	if (offset == LEDGER_LISTING && !length)
		length = 1;
	while (next_piece(&offset, &length, &start, &bytes))
		add(l, item, start, bytes);
}

/* What `predictor` has of [offset, offset + length), which lies in one piece; or NULL. */
static struct entry *find(struct ledger *l, unsigned predictor, uint64_t inode, uint64_t offset,
			  uint32_t length)
{
	struct entry *e = NULL;

	if (l->undecided[predictor])
		e = table_peek(&l->entries,
			       piece_key((enum predictor_id)predictor, inode, offset));
	if (!e || e->inode != inode)
		return NULL;
	if (offset == LEDGER_LISTING)
		return e;
	return e->start < offset + length && offset < e->start + e->length ? e : NULL;
}

static void arrived(struct ledger *l, struct entry *e, bool failed)
{
	e->arrived = true;
	if (!failed)
		return;
	/* What a reader has seen of it came in time. */
	l->counts[e->predictor].fetched_bytes -= e->length - e->used;
	if (e->used)
		l->counts[e->predictor].used_count++;
	else
		l->counts[e->predictor].fetched_count--;
	forget(l, e);
}

void ledger_arrived(struct ledger *l, uint64_t inode, uint64_t offset, uint64_t length, bool failed)
{
	uint64_t start;
	uint32_t bytes;

	if (offset == LEDGER_LISTING)
		length = 1;
	else if (offset > UINT64_MAX - length - LEDGER_PIECE_BYTES)
		return;
	while (next_piece(&offset, &length, &start, &bytes))
		for (unsigned i = 0; i < PREDICTOR_COUNT; i++) {
			struct entry *e = find(l, i, inode, start, bytes);

			if (e)
				arrived(l, e, failed);
		}
}

static void use(struct ledger *l, struct entry *e, uint64_t offset, uint32_t length)
{
	struct ledger_counts *counts = &l->counts[e->predictor];
	uint64_t start = offset > e->start ? offset : e->start;
	uint64_t end = offset + length < e->start + e->length ? offset + length : e->start + e->length;
	uint32_t bytes = offset == LEDGER_LISTING ? e->length : (uint32_t)(end - start);

	/* Where in it was read is not remembered: what is read twice may count for the rest. */
	if (bytes > e->length - e->used)
		bytes = e->length - e->used;
	if (!e->arrived) {
		counts->late_count += !e->late;
		counts->late_bytes += bytes;
		e->late = true;
	}
	e->used += bytes;
	counts->used_bytes += bytes;
	if (e->used < e->length)
		return;
	counts->used_count++;
	decide(l, e, e->length + REQUEST_BYTES, 0);
	forget(l, e);
}

/* A few of all entries, in turns. */
static void look_for_overdue(struct ledger *l)
{
	for (unsigned i = 0; i < LOOK_ENTRIES && l->entries.count; i++) {
		struct entry *e = table_at(&l->entries, l->look % l->entries.count);

		l->look++;
		if (e && e->overdue < l->accesses)
			expire(l, e);
	}
}

void ledger_read(struct ledger *l, uint64_t inode, uint64_t offset, uint64_t length)
{
	uint64_t start;
	uint32_t bytes;

	l->accesses++;
	look_for_overdue(l);
	if (offset == LEDGER_LISTING)
		length = 1;
	else if (offset > UINT64_MAX - length - LEDGER_PIECE_BYTES)
		return;
	while (next_piece(&offset, &length, &start, &bytes))
		for (unsigned i = 0; i < PREDICTOR_COUNT; i++) {
			struct entry *e = find(l, i, inode, start, bytes);

			if (e)
				use(l, e, start, bytes);
		}
}

void ledger_evicted(struct ledger *l, uint64_t inode, uint64_t offset, uint64_t length)
{
	uint64_t pieces, start;
	uint32_t bytes;

	if (offset == LEDGER_LISTING)
		length = 1;
	else if (length > UINT64_MAX - LEDGER_PIECE_BYTES - offset)
		length = UINT64_MAX - LEDGER_PIECE_BYTES - offset;
	pieces = length / LEDGER_PIECE_BYTES;
	/* Of more pieces than there are entries, rather look at the entries. */
	if (pieces > l->entries.count && offset != LEDGER_LISTING) {
		for (uint32_t i = 0; i < l->entries.count; i++) {
			struct entry *e = table_at(&l->entries, i);

			if (e && e->inode == inode && e->start != LEDGER_LISTING &&
			    e->start + e->length > offset && e->start < offset + length)
				expire(l, e);
		}
		return;
	}
	while (next_piece(&offset, &length, &start, &bytes))
		for (unsigned i = 0; i < PREDICTOR_COUNT; i++) {
			struct entry *e = find(l, i, inode, start, bytes);

			if (e)
				expire(l, e);
		}
}

void ledger_counts(const struct ledger *l, enum predictor_id predictor,
		   struct ledger_counts *ret_counts)
{
	*ret_counts = l->counts[predictor];
}

bool ledger_valid(const struct ledger *l)
{
	uint64_t undecided[PREDICTOR_COUNT] = { 0 };
	uint32_t entries[PREDICTOR_COUNT] = { 0 };

	for (uint32_t i = 0; i < l->entries.count; i++) {
		const struct entry *e = table_at(&l->entries, i);

		if (!e)
			continue;
		if (e->predictor >= PREDICTOR_COUNT || e->used >= e->length)
			return false;
		undecided[e->predictor] += e->length - e->used;
		entries[e->predictor]++;
	}
	for (unsigned i = 0; i < PREDICTOR_COUNT; i++) {
		const struct ledger_counts *c = &l->counts[i];

		if (c->fetched_bytes != c->used_bytes + c->wasted_bytes + undecided[i] ||
		    c->late_bytes > c->used_bytes || entries[i] != l->undecided[i])
			return false;
	}
	return l->entries.count <= l->entries.count_max;
}
