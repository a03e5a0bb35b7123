/*
 * predictors_private.h - what the predictors share: the state of files, directories and descriptors.
 *
 * Private to prefetch/. Entries are borrowed from tables: see table.h for how long.
 */
#ifndef PREFETCH_PREDICTORS_PRIVATE_H
#define PREFETCH_PREDICTORS_PRIVATE_H

#include "prefetch/predictors.h"
#include "prefetch/table.h"

#define KIB (UINT64_C(1) << 10)
#define MIB (UINT64_C(1) << 20)

/* ---- files ---- */

#define FILE_BLOCKS 256u

struct block_set {
	uint64_t words[FILE_BLOCKS / 64];
};

struct file {
	struct table_entry entry; /* key: the inode */
	uint64_t directory;       /* 0: not known */
	uint64_t size;
	uint64_t read_bytes;
	uint64_t reach; /* the farthest that was read */
	uint64_t wasted_bytes; /* guessed within it for a reader who went elsewhere */
	uint32_t runs;         /* reads in order, begun */
	uint32_t visited;      /* the number of its last visit */
	/* sequential.c: of each block, what part was guessed in vain; in 255ths */
	uint8_t vain[FILE_BLOCKS];
	/* whole.c: blocks of whole_block_bytes() */
	struct block_set touched, guessed;
	uint64_t whole_step; /* bytes of the last step; 0: none yet */
	uint8_t eighth;      /* so many of it were read when it was looked at last */
	bool whole;          /* all of it is wished for */
};

/*
 * What a reader of one file who went elsewhere has cost may be this share of what was read of it, and
 * this much before anything is known: random reads of a large file cost the origin little more than
 * what was read.
 */
#define WASTE_SHARE 16
#define WASTE_FREE  MIB
/*
 * Not so of long pieces, on average: weights are loaded like that, and what a reader passes over comes
 * later. Well above the largest READ, of which a few are neighbours by chance.
 */
#define WASTE_SHARE_LONG 2
#define PIECE_BYTES_MIN (2 * MIB)
#define PIECES_MIN 4

bool predict_long_pieces(const struct file *file);

/* FILE_BLOCKS of them are the file, or more. */
uint64_t predict_block_bytes(const struct file *file);
bool predict_may_guess(const struct file *file);

/* ---- descriptors ---- */

/* Reads in order. A descriptor may have several: threads that share it, tensors that are mapped. */
#define RUNS 4u

struct run {
	uint64_t start, end; /* what was read, [start, end); both 0: none */
	uint64_t ahead;      /* what was wished for ends here; end or more */
	uint32_t reads, used;
};

struct descriptor {
	struct table_entry entry; /* key: descriptor and inode */
	uint64_t inode;
	struct run runs[RUNS];
	uint32_t clock;
	/* strided.c */
	uint64_t last_offset;
	int64_t stride;
	uint32_t repeats, stride_ahead;
	uint64_t stride_length;
	bool any;
};

/* ---- directories ---- */

#define NAME_KEPT 56u /* bytes of a name that are compared for order */

/* The order in which things of a directory (files, subdirectories) are visited. */
struct order {
	uint32_t ascents; /* in a row, by name */
	uint32_t ahead;   /* of them wished for and not come to */
	uint32_t asked;   /* from the start of the listing */
	uint8_t length;
	char last[NAME_KEPT];
};

struct directory {
	struct table_entry entry; /* key: the inode */
	uint64_t parent;          /* 0: not known */
	uint32_t files, directories; /* of its listing; valid when listed */
	bool listed;
	uint8_t name_length;
	char name[NAME_KEPT]; /* that it was found by, when it is not longer */
	/* sweep.c */
	struct order file_order, directory_order;
	uint32_t opened;      /* files in it that were visited, each counted once in a cycle */
	uint32_t touched;     /* subdirectories in or below which files were */
	uint32_t tree_opened; /* files below it */
	uint32_t switches;    /* how often the next was below another subdirectory than the last */
	uint32_t tree_files;  /* in listings of directories below it */
	uint32_t tree_counted; /* of its subdirectories, whose listings were seen */
	uint32_t tree_asked;
	uint64_t last_child;
	uint64_t bytes, tree_bytes, bytes_max; /* sizes of visited files: in it, below it, either */
	uint64_t reach, tree_reach; /* how far they were read: the same sums */
	uint32_t quota;       /* files to be fetched of each directory below; 0: none */
	uint32_t quota_round; /* so that each is told once */
	uint8_t quota_depth;
	bool counted;         /* in its parent's tree_files */
	/* walk.c */
	uint64_t list_reader; /* who listed it last */
	uint64_t list_number; /* which access that was; 0: never */
	uint32_t walk;        /* serial number of the walk that it is part of; 0: none */
	uint64_t place, span; /* in the order of the walk: what is below is in [place, place + span) */
	uint32_t children_placed;
	uint32_t children_listed;
	uint32_t lists_ahead; /* subdirectories wished for and not come to */
	uint32_t lists_asked; /* from the start of the listing */
	uint32_t lists_missed; /* in a row that it came to before their listings were here */
	bool expanded, come, seen; /* wished for; the walk came to it; its files are counted */
	struct order list_order;
};

/* ---- series ---- */

struct series {
	struct table_entry entry; /* key: directory, what is around the number, and maybe who */
	uint64_t last, ahead;
	int64_t step;
	uint32_t confirmed;
	uint8_t width; /* of a number with leading zeros; 0: none */
};

/* ---- walks ---- */

#define WALKS 8u
#define WALK_PENDING 256u

struct walk {
	uint32_t serial; /* 0: none */
	uint32_t used;
	uint32_t asked, consumed; /* directories */
	uint64_t at, reach;       /* places: of the last that it came to, the farthest with wishes */
	bool unordered;           /* not in the order of listings */
	/* Files in those that it came to; of them visited; wished for. Whether it reads them, too. */
	uint32_t files_seen, files_opened, files_asked;
	bool reads;
	struct {
		uint64_t inode, place; /* of directories with subdirectories to be wished for */
	} pending[WALK_PENDING];
	uint32_t pending_count;
};

/* ---- epochs ---- */

#define FOLLOWERS 4u

struct follower {
	uint64_t position; /* absolute, of the entry that was met last */
	uint64_t ahead;    /* wished for up to here; position + 1 or more */
	uint32_t hits, misses, used;
	bool any;
};

struct epoch {
	uint64_t *order;
	uint32_t *index; /* of sampled ids: position in `order` + 1 */
	uint32_t capacity, capacity_max, index_capacity;
	uint64_t head; /* absolute number of the next visit; its place is head % capacity_max */
	struct follower followers[FOLLOWERS];
	bool followed;          /* the last visit was foreseen */
	uint64_t bytes, visits; /* for the mean size */
};

struct predictors {
	const struct allocator *allocator;
	struct predictors_config config;
	struct table files, descriptors, directories, series;
	uint64_t accesses;
	uint32_t visits;
	uint32_t walk_serial, quota_round;
	struct walk walks[WALKS];
	struct epoch epoch;
};

/* ---- for all of them ---- */

/* Adds a wish; false: there is no room for it. `name`: of FILE, FILES and LISTS. */
bool predictors_wish(struct predictors *p, struct intents *intents, const struct intent *intent,
		     struct slice name);
/* The entry of `access->inode`, a directory, with its name and parent as they are now. */
struct directory *predictors_directory_of(struct predictors *p, const struct access *access);
struct directory *predictors_directory(struct predictors *p, uint64_t inode);
/* `name` comes next in `order`; true: by name. */
bool predict_order_next(struct order *order, struct slice name);

static inline uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t most(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* A READ. strided: true when the reader is in strides, and the read is not for sequential. */
bool predict_strided_read(struct predictors *p, struct file *file, struct descriptor *d,
		  const struct access *access, struct intents *intents);
void predict_sequential_read(struct predictors *p, struct file *file, struct descriptor *d, bool strides,
		     const struct access *access, struct intents *intents);
void predict_whole_read(struct predictors *p, struct file *file, const struct access *access,
		struct intents *intents);
/* What was guessed for a descriptor of which nothing will be known any more was in vain. */
/* Guessed for a reader who went elsewhere; and read after all, maybe. */
void predict_in_vain(struct file *file, uint64_t start, uint64_t end);
void predict_not_in_vain(struct file *file, uint64_t start, uint64_t end);
void predict_sequential_gone(struct predictors *p, const struct descriptor *d);

/* A file is opened, or read without that. `first`: it was not visited lately. */
void predict_series_visit(struct predictors *p, const struct access *access, struct intents *intents);
void predict_sweep_visit(struct predictors *p, const struct access *access, bool first,
		 struct intents *intents);
void predict_epoch_visit(struct predictors *p, const struct access *access, struct intents *intents);

/* Of most files in its directory only a part is read. */
bool predict_parts_only(const struct predictors *p, const struct file *file);
void predict_sweep_read(struct predictors *p, struct file *file, const struct access *access);
/* The walk came to a directory, or is going to, and its listing is here. */
void predict_sweep_walk(struct predictors *p, struct walk *w, struct directory *d,
			struct intents *intents);
struct walk *predict_walk_of(struct predictors *p, const struct directory *d);
void predict_sweep_listed(struct predictors *p, const struct access *access, struct intents *intents);
void predict_walk_list(struct predictors *p, const struct access *access, struct intents *intents);
void predict_walk_listed(struct predictors *p, const struct access *access, struct intents *intents);

int predict_epoch_init(struct predictors *p) MUST_CHECK;
void predict_epoch_finish(struct predictors *p);

#endif
