#include "fs/mount/slab.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define SLAB_IS_MALLOC 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(SLAB_IS_MALLOC)
#define IS_MALLOC true
#else
#define IS_MALLOC false
#endif

#define PAGE_BYTES 4096u /* of ours; on machines with larger pages the system gets fewer back */
#define CHUNK_PAGES 256u /* taken from the system at a time: address space, not yet memory */
#define FREE_END UINT16_MAX
#define RELEASED 0xee /* who still uses it shall notice */

struct slab_page {
	struct slab_page *next, *previous; /* among the partial ones of its size */
	struct slab_chunk *chunk;
	uint16_t size;    /* of its objects, in 8 bytes; their class is one less */
	uint16_t count;   /* handed out */
	uint16_t free;    /* offset of one that was given back, and holds the next; FREE_END: none */
	uint16_t uncut;   /* offset from which on nothing was handed out yet */
};

struct slab_chunk {
	struct slab_chunk *next;
	struct slab_chunk *next_roomy; /* while it is in that list: with unused pages, or filled since */
	bool roomy;
	char *pages;
	unsigned unused_count;
	uint64_t unused[CHUNK_PAGES / 64]; /* a bit each */
};

static size_t page_capacity(size_t size)
{
	return (PAGE_BYTES - sizeof(struct slab_page)) / (size * 8);
}

static bool page_full(const struct slab_page *page)
{
	return page->count == page_capacity(page->size);
}

void slab_init(struct slab *slab)
{
	memset(slab, 0, sizeof(*slab));
}

void slab_finish(struct slab *slab)
{
	while (slab->chunks) {
		struct slab_chunk *chunk = slab->chunks;

		slab->chunks = chunk->next;
		(void)munmap(chunk->pages, (size_t)CHUNK_PAGES * PAGE_BYTES); /* it was mapped */
		free(chunk);
	}
	memset(slab, 0, sizeof(*slab));
}

/* ---- pages ---- */

static struct slab_chunk *chunk_create(void)
{
	struct slab_chunk *chunk = malloc(sizeof(*chunk));
	size_t bytes = (size_t)CHUNK_PAGES * PAGE_BYTES;

	if (!chunk)
		return NULL;
	chunk->pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (chunk->pages == MAP_FAILED) {
		free(chunk);
		return NULL;
	}
	/* A huge page would take back what was given back; a kernel without them refuses. */
	(void)madvise(chunk->pages, bytes, MADV_NOHUGEPAGE);
	chunk->roomy = false;
	chunk->unused_count = CHUNK_PAGES;
	memset(chunk->unused, 0xff, sizeof(chunk->unused));
	return chunk;
}

static void roomy_add(struct slab *slab, struct slab_chunk *chunk)
{
	if (chunk->roomy)
		return;
	chunk->roomy = true;
	chunk->next_roomy = slab->roomy;
	slab->roomy = chunk;
}

/* One with an unused page. */
static struct slab_chunk *chunk_with_room(struct slab *slab)
{
	struct slab_chunk *chunk;

	while ((chunk = slab->roomy) && chunk->unused_count == 0) {
		slab->roomy = chunk->next_roomy;
		chunk->roomy = false;
	}
	if (chunk)
		return chunk;
	chunk = chunk_create();
	if (!chunk)
		return NULL;
	chunk->next = slab->chunks;
	slab->chunks = chunk;
	roomy_add(slab, chunk);
	return chunk;
}

static void partial_add(struct slab *slab, struct slab_page *page)
{
	struct slab_page **first = &slab->partial[page->size - 1];

	page->previous = NULL;
	page->next = *first;
	if (*first)
		(*first)->previous = page;
	*first = page;
}

static void partial_remove(struct slab *slab, struct slab_page *page)
{
	if (page->previous)
		page->previous->next = page->next;
	else
		slab->partial[page->size - 1] = page->next;
	if (page->next)
		page->next->previous = page->previous;
}

static struct slab_page *page_create(struct slab *slab, uint16_t size)
{
	struct slab_chunk *chunk = chunk_with_room(slab);
	struct slab_page *page;
	unsigned word = 0, bit;

	if (!chunk)
		return NULL;
	while (!chunk->unused[word])
		word++;
	bit = (unsigned)__builtin_ctzll(chunk->unused[word]);
	chunk->unused[word] &= ~(UINT64_C(1) << bit);
	chunk->unused_count--;
	page = (struct slab_page *)(void *)(chunk->pages + (size_t)(word * 64 + bit) * PAGE_BYTES);
	*page = (struct slab_page){ .chunk = chunk, .size = size, .free = FREE_END,
				    .uncut = sizeof(*page) };
	slab->page_count++;
	partial_add(slab, page);
	return page;
}

/* Its objects are gone: its memory goes back to the system, its place stays. */
static void page_release(struct slab *slab, struct slab_page *page)
{
	struct slab_chunk *chunk = page->chunk;
	size_t index = (size_t)((char *)page - chunk->pages) / PAGE_BYTES;

	partial_remove(slab, page);
	chunk->unused[index / 64] |= UINT64_C(1) << index % 64;
	chunk->unused_count++;
	roomy_add(slab, chunk);
	slab->page_count--;
	(void)madvise(page, PAGE_BYTES, MADV_DONTNEED); /* where pages are larger it stays */
}

/* ---- objects ---- */

static uint16_t size_of(size_t bytes)
{
	return (uint16_t)((bytes + 7) / 8);
}

void *slab_allocate(struct slab *slab, size_t bytes)
{
	uint16_t size = size_of(bytes);
	struct slab_page *page;
	char *object;

	assert(bytes > 0);
	if (IS_MALLOC || bytes > SLAB_OBJECT_BYTES_MAX)
		return calloc(1, bytes);
	page = slab->partial[size - 1];
	if (!page)
		page = page_create(slab, size);
	if (!page)
		return NULL;
	if (page->free != FREE_END) {
		object = (char *)page + page->free;
		memcpy(&page->free, object, sizeof(page->free));
	} else {
		object = (char *)page + page->uncut;
		page->uncut = (uint16_t)(page->uncut + size * 8);
	}
	page->count++;
	if (page_full(page))
		partial_remove(slab, page);
	slab->object_count++;
	return memset(object, 0, (size_t)size * 8);
}

void slab_free(struct slab *slab, void *object, size_t bytes)
{
	struct slab_page *page;
	uint16_t size = size_of(bytes);

	if (!object)
		return;
	if (IS_MALLOC || bytes > SLAB_OBJECT_BYTES_MAX) {
		free(object);
		return;
	}
	page = (struct slab_page *)((uintptr_t)object & ~(uintptr_t)(PAGE_BYTES - 1));
	assert(page->size == size && page->count > 0);
	memset(object, RELEASED, (size_t)size * 8);
	memcpy(object, &page->free, sizeof(page->free));
	page->free = (uint16_t)((char *)object - (char *)page);
	if (page_full(page))
		partial_add(slab, page);
	page->count--;
	slab->object_count--;
	/* The last page of its size is kept: one object that comes and goes is no system call each. */
	if (page->count == 0 && (page->next || page->previous))
		page_release(slab, page);
}

/* ---- as an allocator ---- */

static void *resize(void *context, void *pointer, size_t old_size, size_t size)
{
	struct slab *slab = context;
	void *moved;

	if (size == 0) {
		slab_free(slab, pointer, old_size);
		return NULL;
	}
	if (pointer && old_size > SLAB_OBJECT_BYTES_MAX && size > SLAB_OBJECT_BYTES_MAX)
		return realloc(pointer, size);
	moved = slab_allocate(slab, size);
	if (moved && pointer) {
		memcpy(moved, pointer, old_size < size ? old_size : size);
		slab_free(slab, pointer, old_size);
	}
	return moved;
}

struct allocator slab_allocator(struct slab *slab)
{
	return (struct allocator){ resize, slab };
}
