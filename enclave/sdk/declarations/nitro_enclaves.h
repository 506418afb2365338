/* aws/nitro_enclaves/nitro_enclaves.h */

void aws_nitro_enclaves_library_init(struct aws_allocator *allocator);
int aws_nitro_enclaves_library_seed_entropy(uint64_t bytes);
struct aws_allocator *aws_nitro_enclaves_get_allocator(void);
