#include "prefetch/predictors.h"

#include <assert.h>
#include <errno.h>

#include "lease/base/rng.h"
#include "prefetch/ledger.h"
#include "prefetch/predictors_private.h"

/* A file that was visited within so many visits of others is the same visit still. */
#define VISIT_LASTS 64

#define OFFSET_MAX ((uint64_t)INT64_MAX / 4)
#define LENGTH_MAX (UINT64_C(1) << 30)
#define BLOCK_BYTES_MIN (64 * KIB)
#define CACHE_SHARE 8
/* Smaller tables would lose what one access touches. */
#define FILES_MIN 16

int predictors_create(const struct predictors_config *config, const struct allocator *allocator,
		      struct predictors **ret_predictors)
{
	const struct predictors_config defaults = PREDICTORS_DEFAULTS;
	struct predictors *p = allocator->resize(allocator->context, NULL, 0, sizeof(*p));
	uint32_t count;

	if (!p)
		return -ENOMEM;
	memset(p, 0, sizeof(*p));
	p->allocator = allocator;
	p->config = config ? *config : defaults;
	if (!p->config.window_bytes_max)
		p->config.window_bytes_max = defaults.window_bytes_max;
	if (!p->config.files_bytes_max)
		p->config.files_bytes_max = defaults.files_bytes_max;
	/* What is ahead must not be pushed out by what is ahead of it. */
	if (p->config.cache_bytes)
		p->config.files_bytes_max =
			least(p->config.files_bytes_max, p->config.cache_bytes / CACHE_SHARE);
	if (!p->config.files_max)
		p->config.files_max = defaults.files_max;
	if (!p->config.epoch_entries_max)
		p->config.epoch_entries_max = defaults.epoch_entries_max;
	if (p->config.files_max < FILES_MIN)
		p->config.files_max = FILES_MIN;
	count = p->config.files_max;
	if (table_init(&p->files, allocator, count, sizeof(struct file)) ||
	    table_init(&p->descriptors, allocator, count, sizeof(struct descriptor)) ||
	    table_init(&p->directories, allocator, count, sizeof(struct directory)) ||
	    table_init(&p->series, allocator, count, sizeof(struct series)) ||
	    predict_epoch_init(p)) {
		predictors_destroy(p);
		return -ENOMEM;
	}
	*ret_predictors = p;
	return 0;
}

void predictors_destroy(struct predictors *p)
{
	struct table *tables[] = { p ? &p->files : NULL, p ? &p->descriptors : NULL,
				   p ? &p->directories : NULL, p ? &p->series : NULL };

	if (!p)
		return;
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
		if (tables[i]->allocator)
			table_finish(tables[i]);
	predict_epoch_finish(p);
	p->allocator->resize(p->allocator->context, p, sizeof(*p), 0);
}

bool predictors_wish(struct predictors *p, struct intents *intents, const struct intent *intent,
		     struct slice name)
{
	struct intent *wish;

	if (intents->count == intents->capacity)
		return false;
	/* Who is silent goes on as if it had been heard. */
	if (p->config.ledger &&
	    !ledger_allows(p->config.ledger, intent->predictor, intent_scope(intent)))
		return true;
	wish = &intents->items[intents->count];
	*wish = *intent;
	if (name.length > INTENT_NAME_MAX)
		return true; /* no file system that we know has such names */
	if (name.length)
		memcpy(wish->name, name.data, name.length);
	wish->name_length = (uint8_t)name.length;
	intents->count++;
	return true;
}

struct directory *predictors_directory(struct predictors *p, uint64_t inode)
{
	struct directory *d = table_get(&p->directories, inode);

	return d ? d : table_add(&p->directories, inode, NULL);
}

struct directory *predictors_directory_of(struct predictors *p, const struct access *access)
{
	struct directory *d = predictors_directory(p, access->inode);

	if (access->directory && access->directory != access->inode)
		d->parent = access->directory;
	if (access->name.length && access->name.length <= NAME_KEPT) {
		memcpy(d->name, access->name.data, access->name.length);
		d->name_length = (uint8_t)access->name.length;
	}
	return d;
}

bool predict_order_next(struct order *order, struct slice name)
{
	size_t length = least(name.length, NAME_KEPT), shorter = least(length, order->length);
	int c = shorter ? memcmp(name.data, order->last, shorter) : 0;

	if (c > 0 || (c == 0 && length > order->length))
		order->ascents += order->ascents < UINT32_MAX;
	else if (c < 0 || length < order->length)
		order->ascents = 0;
	if (length)
		memcpy(order->last, name.data, length);
	order->length = (uint8_t)length;
	/* By chance a few names are in order: of five equally likely ones one in 120. */
	return order->ascents >= 5;
}

uint64_t predict_block_bytes(const struct file *file)
{
	return most((file->size + FILE_BLOCKS - 1) / FILE_BLOCKS, BLOCK_BYTES_MIN);
}

void predict_in_vain(struct file *file, uint64_t start, uint64_t end)
{
	uint64_t size = predict_block_bytes(file);

	file->wasted_bytes += end - start;
	for (uint64_t at = start; at < end && at / size < FILE_BLOCKS;) {
		uint64_t next = least((at / size + 1) * size, end);
		uint8_t *vain = &file->vain[at / size];

		*vain = (uint8_t)least(*vain + (next - at) * 255 / size, 255);
		at = next;
	}
}

/*
 * Of what is read in a block, the part that was guessed in vain before, as much as is likely: for random
 * reads that is little, and a tensor that was passed over and is loaded now is all of it.
 */
void predict_not_in_vain(struct file *file, uint64_t start, uint64_t end)
{
	uint64_t size = predict_block_bytes(file);

	for (uint64_t at = start; at < end && at / size < FILE_BLOCKS && file->wasted_bytes;) {
		uint64_t next = least((at / size + 1) * size, end);
		uint8_t *vain = &file->vain[at / size];
		uint64_t share = (next - at) * *vain / size;

		file->wasted_bytes -= least(file->wasted_bytes, (next - at) * *vain / 255);
		*vain = (uint8_t)(*vain - least(share, *vain));
		at = next;
	}
}

bool predict_long_pieces(const struct file *file)
{
	return file->runs >= PIECES_MIN && file->read_bytes > file->runs * PIECE_BYTES_MIN;
}

bool predict_may_guess(const struct file *file)
{
	uint64_t share = predict_long_pieces(file) ? WASTE_SHARE_LONG : WASTE_SHARE;

	return file->wasted_bytes <= WASTE_FREE + file->read_bytes / share;
}

static struct file *find_file(struct predictors *p, const struct access *access, bool *ret_first)
{
	struct file *file = table_get(&p->files, access->inode);

	*ret_first = !file;
	if (!file)
		file = table_add(&p->files, access->inode, NULL);
	if (access->directory)
		file->directory = access->directory;
	if (access->size)
		file->size = access->size;
	return file;
}

static void visit(struct predictors *p, const struct access *access, bool first,
		  struct intents *intents)
{
	struct intents none = { .capacity = 0 };
	struct access full = *access;
	struct file *file = table_peek(&p->files, access->inode);

	file->visited = ++p->visits;
	full.directory = file->directory;
	full.size = file->size;
	predict_epoch_visit(p, &full, intents);
	predict_series_visit(p, &full, intents);
	/* Who knows what comes next does not need all that may come. */
	predict_sweep_visit(p, &full, first, p->epoch.followed ? &none : intents);
}

static void read_access(struct predictors *p, const struct access *access, struct intents *intents)
{
	uint64_t key = rng_mix(rng_mix(access->reader) + access->inode);
	struct descriptor gone, *d;
	struct file *file;
	bool first, strides;

	file = find_file(p, access, &first);
	/* Not everybody is told of opens. */
	if (first || (access->offset == 0 && p->visits - file->visited >= VISIT_LASTS))
		visit(p, access, first, intents);
	if (access->length == 0)
		return;
	file->read_bytes += access->length;
	predict_sweep_read(p, file, access);
	predict_not_in_vain(file, access->offset, access->offset + access->length);
	d = table_get(&p->descriptors, key);
	if (!d) {
		d = table_add(&p->descriptors, key, &gone);
		d->inode = access->inode;
		if (gone.entry.used)
			predict_sequential_gone(p, &gone);
	}
	strides = predict_strided_read(p, file, d, access, intents);
	predict_sequential_read(p, file, d, strides, access, intents);
	predict_whole_read(p, file, access, intents);
}

void predictors_access(struct predictors *p, const struct access *access, struct intents *intents)
{
	bool first;

	if (!access->inode)
		return; /* absent: nothing follows from that so far */
	if (access->offset > OFFSET_MAX || access->length > LENGTH_MAX || access->size > OFFSET_MAX)
		return; /* no file system has that */
	p->accesses++;
	switch (access->type) {
	case ACCESS_LOOKUP:
		if ((access->file_type & 0170000) == 0040000)
			(void)predictors_directory_of(p, access);
		return;
	case ACCESS_LIST:
		predict_walk_list(p, access, intents);
		return;
	case ACCESS_LISTED:
		predict_walk_listed(p, access, intents);
		predict_sweep_listed(p, access, intents);
		return;
	case ACCESS_OPEN:
		(void)find_file(p, access, &first);
		visit(p, access, first, intents);
		return;
	case ACCESS_READ:
		read_access(p, access, intents);
		return;
	case ACCESS_CLOSE:
	case ACCESS_TYPE_COUNT:
		return;
	}
}

static bool table_valid(const struct table *t)
{
	return t->count <= t->count_max && t->newest <= t->count && t->oldest <= t->count;
}

bool predictors_valid(const struct predictors *p)
{
	const struct epoch *e = &p->epoch;

	if (!table_valid(&p->files) || !table_valid(&p->descriptors) ||
	    !table_valid(&p->directories) || !table_valid(&p->series))
		return false;
	if (e->capacity > e->capacity_max ||
	    (uint64_t)e->capacity * sizeof(*e->order) + (uint64_t)e->index_capacity * sizeof(*e->index) >
		    (uint64_t)EPOCH_ENTRY_BYTES * e->capacity_max + 4096)
		return false;
	for (unsigned i = 0; i < FOLLOWERS; i++)
		if (e->followers[i].any && e->followers[i].ahead > e->head)
			return false;
	for (unsigned i = 0; i < WALKS; i++)
		if (p->walks[i].pending_count > WALK_PENDING)
			return false;
	return true;
}
