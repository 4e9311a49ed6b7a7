# The smallest guest that the conformance suite can use: a boot sector that counts timer ticks, writes the count to sector 1
# of its disk through the BIOS, echoes its serial line, answers "?" there with its identity and its count, and powers off on
# the ACPI power button. Assembled by hand into guest.bin:
#   as --32 -o guest.o guest.S && ld -m elf_i386 -Ttext 0x7c00 --oformat binary -o guest.bin guest.o
.code16
.globl _start
_start:
	cli
	xorw %ax, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movw $0x7c00, %sp
	movb %dl, drive
	rdtsc
	movl %eax, 0x600		# identity of this boot
	movl $0, 0x604			# the count
	movb $0x34, %al			# PIT channel 0 at 250 Hz
	outb %al, $0x43
	movb $0xa5, %al
	outb %al, $0x40
	movb $0x12, %al
	outb %al, $0x40
	movw $0x3fa, %dx		# UART FIFO on
	movb $1, %al
	outb %al, %dx
	movw $0x602, %dx		# PM1_EN: power button
	inw %dx, %ax
	orb $1, %ah
	outw %ax, %dx
	sti
loop:
	hlt
	incl 0x604
rx:
	movw $0x3fd, %dx
	inb %dx, %al
	testb $1, %al
	jz power
	movw $0x3f8, %dx
	inb %dx, %al
	cmpb $'?', %al
	je status
	call putc
	jmp rx
status:
	movb $'b', %al
	call putc
	movl 0x600, %ebx
	call hex
	movb $'c', %al
	call putc
	movl 0x604, %ebx
	call hex
	movb $'\n', %al
	call putc
	jmp rx
power:
	movw $0x600, %dx		# PM1_STS
	inw %dx, %ax
	testb $1, %ah
	jz disk
	movw $0x604, %dx		# PM1_CNT: S5
	movw $0x2000, %ax
	outw %ax, %dx
disk:
	testb $0x1f, 0x604
	jnz loop
	movl 0x600, %eax
	movl %eax, 0x8000
	movl 0x604, %eax
	movl %eax, 0x8004
	movb $0x43, %ah			# extended write
	xorb %al, %al
	movb drive, %dl
	movw $dap, %si
	int $0x13
	jmp loop
putc:
	pushw %ax
	movw $0x3fd, %dx
1:	inb %dx, %al
	testb $0x20, %al
	jz 1b
	popw %ax
	movw $0x3f8, %dx
	outb %al, %dx
	ret
hex:
	movw $8, %cx
1:	roll $4, %ebx
	movb %bl, %al
	andb $15, %al
	addb $'0', %al
	cmpb $'9', %al
	jbe 2f
	addb $('a'-'0'-10), %al
2:	call putc
	decw %cx
	jnz 1b
	ret
	.balign 4
dap:	.byte 16, 0
	.word 1
	.word 0x8000, 0
	.quad 1
drive:	.byte 0
	.org 510
	.word 0xaa55
