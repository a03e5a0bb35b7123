/*
 * sweep.c - the other files of a directory, or of a tree, that is being read file by file.
 *
 * In the order of names, or in any other: a shuffled epoch looks like a random choice for long, so what
 * is wished for is a multiple of what was visited (AHEAD_FACTOR). An epoch of N files then misses about N /
 * (2 * AHEAD_FACTOR) of them; who reads a few files only has fetched that many times as many at most. While
 * less than 1 / SHARE_SEEN of the files was visited, it is FILES_UNSURE at most: few are wanted of a
 * directory of millions.
 *
 * Who walks through a tree and reads what is there (grep -r, tar) has the files of each directory
 * wished for as soon as it is listed.
 *
 * In a tree the same is counted for each directory of what is below it, DEPTH_MAX levels up. Where files of
 * several subdirectories are visited, those are listed, and as each listing comes (predict_sweep_listed) its
 * share of the files is wished for.
 */
#include "prefetch/predictors_private.h"

#define FILES_MIN 4u       /* that were visited, before anything is wished for */
#define DIRECTORIES_MIN 4u /* in which files were visited */
#define AHEAD_FACTOR 16u
#define SHARE_SEEN 64u
#define FILES_UNSURE 1024u
#define FILES_SURE_MIN 32u
/* How long they may wait then: any of them may be the last that is visited. */
#define UNSURE_DISTANCE (2 * FILES_UNSURE)
#define DEPTH_MAX 3
/* Of what a walk will come to and read, ahead. */
#define WALK_FILES_MIN 256u
/* Of larger files, the start comes soon and the rest is for sequential: a round trip is little of it. */
#define FILE_BYTES_MAX (8 * MIB)
/* Less than this part is read of files, then they are not fetched whole; and this much at least. */
#define PART_SHARE 4
#define PART_BYTES_MIN (128 * KIB)
/* Of files in order of their names, ahead. */
#define ORDER_FILES_MAX 256u
#define ORDER_DIRECTORIES_MAX 8u

static uint32_t clamp(uint64_t value)
{
	return (uint32_t)least(value, UINT32_MAX);
}

/* How many files may be wished for in all when `opened` of `known` (0: not known) were visited. */
static uint32_t allowed(const struct predictors *p, uint32_t opened, uint32_t known, uint64_t mean)
{
	uint64_t count = (uint64_t)opened * AHEAD_FACTOR, bytes_max = p->config.files_bytes_max;

	if (opened < FILES_SURE_MIN || !known || opened < known / SHARE_SEEN) {
		count = least(count, FILES_UNSURE);
		count = least(count, most(bytes_max / most(mean, 1), FILES_MIN));
	}
	return clamp(known ? least(count, known) : count);
}

static bool parts_only(uint64_t bytes, uint64_t reach, uint32_t count)
{
	return count > FILES_MIN && reach < bytes / PART_SHARE;
}

bool predict_parts_only(const struct predictors *p, const struct file *file)
{
	const struct directory *d =
		file->directory ? table_peek(&p->directories, file->directory) : NULL;

	return d && parts_only(d->bytes, d->reach, d->opened);
}

/*
 * Of one file: all, but a large one that lies among small ones is not meant. Where of most files only a
 * part is read, a header, not more than that; once somebody goes on, the next wish is for more.
 */
static uint64_t length_each(uint64_t bytes_max, uint64_t bytes, uint64_t reach, uint32_t count)
{
	if (parts_only(bytes, reach, count))
		return most(4 * reach / count, PART_BYTES_MIN);
	return most(4 * bytes_max, MIB);
}

static uint64_t mean_bytes(uint64_t bytes, uint32_t count)
{
	return bytes / most(count, 1);
}

/* In order: the next ones behind the name. */
static void wish_in_order(struct predictors *p, struct directory *d, const struct access *access,
			  struct intents *intents)
{
	struct intent intent = { .type = INTENT_FILES, .predictor = PREDICTOR_SWEEP,
				 .directory = d->entry.key, .sorted = true,
				 .length = length_each(d->bytes_max, d->bytes, d->reach, d->opened) };
	uint64_t mean = most(mean_bytes(d->bytes, d->opened), 1);

	intent.count = clamp(least(least(4 * (uint64_t)d->opened, ORDER_FILES_MAX),
				   most(p->config.files_bytes_max / mean, 2)));
	if (d->file_order.ahead > intent.count / 2)
		return;
	intent.distance = 1;
	if (predictors_wish(p, intents, &intent, access->name))
		d->file_order.ahead = intent.count;
}

/* `distance`: in the worst case all of them are visited before the last. */
static void wish_files(struct predictors *p, struct directory *d, uint32_t count, uint64_t length,
		       uint32_t distance, struct intents *intents)
{
	const struct intent intent = { .type = INTENT_FILES, .predictor = PREDICTOR_SWEEP,
				       .directory = d->entry.key, .length = length,
				       .count = count, .distance = distance };

	if (predictors_wish(p, intents, &intent, (struct slice){ 0 }))
		d->file_order.asked = count;
}

static void file_visited(struct predictors *p, struct directory *d, const struct access *access,
			 struct intents *intents)
{
	bool by_name = predict_order_next(&d->file_order, access->name);
	uint32_t count, known = d->listed ? d->files : 0;
	uint64_t mean;

	if (known && d->opened >= known) { /* another cycle */
		d->opened = 0;
		d->bytes = d->reach = 0;
		d->file_order.asked = d->file_order.ahead = 0;
	}
	d->opened++;
	d->bytes += access->size;
	d->bytes_max = most(d->bytes_max, least(access->size, FILE_BYTES_MAX));
	mean = mean_bytes(d->bytes, d->opened);
	if (d->file_order.ahead)
		d->file_order.ahead--;
	if (d->opened < FILES_MIN || mean > FILE_BYTES_MAX)
		return;
	if (by_name && access->name.length) {
		wish_in_order(p, d, access, intents);
		return;
	}
	count = allowed(p, d->opened, known, mean);
	if (count / 2 >= d->file_order.asked || (count == known && d->file_order.asked < count))
		wish_files(p, d, count,
			   length_each(d->bytes_max, d->bytes, d->reach, d->opened),
			   most(known, UNSURE_DISTANCE), intents);
}

/* ---- what a walk comes to ---- */

/* Listings that are here already are told again, and lead to their files. */
static void wish_again(struct predictors *p, const struct directory *d, struct intents *intents)
{
	for (int depth = 0; depth < DEPTH_MAX && d->parent; depth++) {
		struct intent intent = { .type = INTENT_LISTS, .predictor = PREDICTOR_SWEEP,
					 .directory = d->parent, .distance = 2 };

		d = table_peek(&p->directories, d->parent);
		if (!d || !d->listed || !d->walk)
			return;
		intent.count = d->directories;
		if (intent.count)
			(void)predictors_wish(p, intents, &intent, (struct slice){ 0 });
	}
}

/* grep -r, tar, cp -r: the walk reads half of the files that it comes to, or more. */
static bool reads(const struct walk *w)
{
	return w->files_opened >= FILES_MIN && w->files_opened >= w->files_seen / 2;
}

void predict_sweep_walk(struct predictors *p, struct walk *w, struct directory *d,
			struct intents *intents)
{
	uint64_t ahead_max = most(WALK_FILES_MIN, (uint64_t)w->files_opened * AHEAD_FACTOR);
	bool read_before = w->reads;

	if (d->come && !d->seen) {
		d->seen = true;
		w->files_seen += d->files;
	}
	w->reads = reads(w);
	if (w->reads && !read_before)
		wish_again(p, d, intents);
	if (!w->reads || !d->files || d->file_order.asked >= d->files ||
	    w->files_asked > w->files_opened + ahead_max)
		return;
	wish_files(p, d, d->files, most(4 * d->bytes_max, MIB), 2, intents);
	w->files_asked += d->files;
}

/* ---- trees ---- */

/* Directory after directory: those that come next, entirely. */
static void wish_next_directories(struct predictors *p, struct directory *d, struct slice child,
				  bool by_name, struct intents *intents)
{
	const struct intent intent = { .type = INTENT_LISTS, .predictor = PREDICTOR_SWEEP,
				       .directory = d->entry.key, .sorted = by_name,
				       .count = (uint32_t)least(d->touched, ORDER_DIRECTORIES_MAX),
				       .distance = 1 };

	if (!child.length || d->directory_order.ahead > intent.count / 2)
		return;
	if (!predictors_wish(p, intents, &intent, child))
		return;
	d->directory_order.ahead = intent.count;
	d->quota = UINT32_MAX;
	d->quota_round = ++p->quota_round;
	d->quota_depth = DEPTH_MAX;
}

/* In any order: a share of each. */
static void wish_tree(struct predictors *p, struct directory *d, uint32_t count, uint32_t known,
		      struct intents *intents)
{
	struct intent intent = { .type = INTENT_LISTS, .predictor = PREDICTOR_SWEEP,
				 .directory = d->entry.key };
	uint64_t directories = d->listed ? d->directories : (uint64_t)d->touched * 2;

	intent.count = clamp(least(directories, (uint64_t)AHEAD_FACTOR * d->touched));
	/* Behind the files of those that were listed: what waits for its turn is bounded. */
	intent.distance = 2 * (uint32_t)most(known, UNSURE_DISTANCE);
	if (!intent.count || !predictors_wish(p, intents, &intent, (struct slice){ 0 }))
		return;
	d->tree_asked = count;
	d->quota = clamp(most((count + directories - 1) / directories, 1));
	if (known && count >= known && intent.count == directories)
		d->quota = UINT32_MAX;
	d->quota_round = ++p->quota_round;
	d->quota_depth = DEPTH_MAX;
}

/* Files below `d`: of those directories of it that were listed, and as many for each other. 0: unknown. */
static uint32_t known_below(const struct directory *d)
{
	if (!d->listed || !d->tree_counted)
		return 0;
	return clamp((uint64_t)d->tree_files * most(d->directories, 1) / d->tree_counted);
}

static void tree_visited(struct predictors *p, struct directory *d, const struct directory *child,
			 bool child_new, uint64_t size, struct intents *intents)
{
	const struct slice name = { (const uint8_t *)child->name, child->name_length };
	bool by_name = false;
	uint32_t count, known = known_below(d);
	uint64_t mean;

	if (known && d->tree_opened >= known && d->touched >= d->directories) { /* another cycle */
		d->touched = d->switches = d->tree_opened = d->tree_asked = 0;
		d->tree_bytes = d->tree_reach = 0;
	}
	if (child_new) {
		d->touched++;
		by_name = predict_order_next(&d->directory_order, name);
		if (d->directory_order.ahead)
			d->directory_order.ahead--;
	}
	d->switches += d->last_child != child->entry.key;
	d->last_child = child->entry.key;
	d->tree_opened++;
	d->tree_bytes += size;
	d->bytes_max = most(d->bytes_max, least(size, FILE_BYTES_MAX));
	mean = mean_bytes(d->tree_bytes, d->tree_opened);
	if (d->touched < DIRECTORIES_MIN || mean > FILE_BYTES_MAX)
		return;
	if (d->switches <= 2 * d->touched && d->tree_opened >= 4 * d->touched) {
		if (child_new)
			wish_next_directories(p, d, name, by_name, intents);
		return;
	}
	count = allowed(p, d->tree_opened, known, mean);
	if (count / 2 >= d->tree_asked || (known && count == known && d->tree_asked < count))
		wish_tree(p, d, count, known, intents);
}

void predict_sweep_visit(struct predictors *p, const struct access *access, bool first,
		 struct intents *intents)
{
	struct directory *d, *parent;
	struct walk *walk;
	bool new;

	if (!access->directory || !first)
		return;
	d = predictors_directory(p, access->directory);
	walk = predict_walk_of(p, d);
	if (walk)
		walk->files_opened++;
	file_visited(p, d, access, intents);
	new = d->opened == 1;
	for (int depth = 0; depth < DEPTH_MAX && d->parent && d->parent != d->entry.key; depth++) {
		uint32_t touched;

		parent = predictors_directory(p, d->parent);
		if (parent == d)
			return;
		touched = parent->touched;
		tree_visited(p, parent, d, new, access->size, intents);
		new = touched == 0 && parent->touched == 1;
		d = parent;
	}
}

void predict_sweep_read(struct predictors *p, struct file *file, const struct access *access)
{
	uint64_t reach = least(access->offset + access->length, file->size), more;
	struct directory *d;

	if (reach <= file->reach)
		return;
	more = reach - file->reach;
	file->reach = reach;
	d = file->directory ? table_peek(&p->directories, file->directory) : NULL;
	if (!d)
		return;
	d->reach += more;
	for (int depth = 0; depth < DEPTH_MAX && d && d->parent; depth++) {
		d = table_peek(&p->directories, d->parent);
		if (d)
			d->tree_reach += more;
	}
}

/* Of a listing that is here for the first time. */
static void count_files(struct predictors *p, struct directory *d)
{
	struct directory *above = d;

	d->counted = true;
	for (int depth = 0; depth < DEPTH_MAX && above->parent; depth++) {
		above = table_peek(&p->directories, above->parent);
		if (!above || above == d)
			return;
		above->tree_counted += depth == 0;
		above->tree_files += d->files;
	}
}

void predict_sweep_listed(struct predictors *p, const struct access *access, struct intents *intents)
{
	struct directory *d = predictors_directory(p, access->inode);
	struct directory *parent = d->parent ? table_peek(&p->directories, d->parent) : NULL;
	struct directory *above; /* where the wish was made */
	struct intent intent = { .type = INTENT_LISTS, .predictor = PREDICTOR_SWEEP,
				 .directory = d->entry.key };

	if (!parent || parent == d)
		return;
	if (!d->counted)
		count_files(p, d);
	if (!parent->quota || !parent->quota_depth || d->quota_round == parent->quota_round)
		return;
	d->bytes_max = most(d->bytes_max, parent->bytes_max);
	for (above = parent; above->quota_depth < DEPTH_MAX && above->parent;) {
		struct directory *higher = table_peek(&p->directories, above->parent);

		if (!higher || higher->quota_depth <= above->quota_depth)
			break;
		above = higher;
	}
	if (d->files && d->file_order.asked < least(parent->quota, d->files))
		wish_files(p, d, clamp(least(parent->quota, d->files)),
			   length_each(d->bytes_max, above->tree_bytes, above->tree_reach,
				       above->tree_opened),
			   most(known_below(above), UNSURE_DISTANCE), intents);
	if (d->directories && parent->quota_depth > 1) {
		intent.count = d->directories;
		intent.distance = 16;
		if (!predictors_wish(p, intents, &intent, (struct slice){ 0 }))
			return;
		d->quota = parent->quota == UINT32_MAX ? UINT32_MAX :
			clamp(most(parent->quota / d->directories, 1));
		d->quota_depth = parent->quota_depth - 1;
	}
	d->quota_round = parent->quota_round;
}
