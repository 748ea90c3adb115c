from namemlp.cli import main

main()
